"""What an overload run is judged by: the simulation's own figures, from what clients saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import median
from typing import Any

from app.load.streams import BROKEN, COMPLETED, FAILED, REFUSED, UNREACHABLE, Answer
from placement.simulation.simulator import Record
from placement.simulation.summary import PREDICTION_TOLERANCE, Promise, percentile, summarise
from placement.simulation.workload import Request

Json = dict[str, Any]
# By round.
Ratios = dict[str, list[float]]
# No decision of a server's: it has died, or something in it went wrong.
FAILURES = (UNREACHABLE, FAILED, BROKEN)


@dataclass(frozen=True, slots=True)
class Run:
    """The requests that were offered, by id, and all answers, returns included."""

    requests: Mapping[str, Request]
    answers: Sequence[Answer]
    warm_up_s: float

    def record(self, answer: Answer) -> Record:
        """Granted means here: the client saw a first token."""
        request = self.requests[answer.request_id]
        completed = answer.outcome == COMPLETED
        if completed:
            request = replace(request, prompt_tokens=answer.prompt_tokens, output_tokens=answer.output_tokens)
        return Record(
            request,
            granted_s=answer.ttft_s,
            ttft_s=answer.ttft_s,
            finished_s=answer.ended_s if completed else None,
            predicted_ttft_s=answer.predicted_ttft_s,
            returned=answer.returned,
        )

    def thrown_away(self, answer: Answer) -> int:
        """Tokens of an answer that was not completed: what came of it, and its prompt where anything came."""
        if answer.outcome == COMPLETED:
            return 0
        prompt = 0 if answer.ttft_s is None else self.requests[answer.request_id].prompt_tokens
        return prompt + answer.output_tokens

    def first_tries(self) -> list[Answer]:
        """The answers that count: after the warm-up, without the returns of refused clients."""
        return [
            one
            for one in self.answers
            if not one.returned and self.requests[one.request_id].arrived_s >= self.warm_up_s
        ]


def score(run: Run, promise: Promise) -> Json:
    """All shares are of OFFERED requests, but for `kept_of_admitted`. Admitted is what was not refused at
    once, whatever became of it later; `failed` is what a server did not answer that should have."""
    wasted_tokens = sum(map(run.thrown_away, run.answers))
    records = [run.record(answer) for answer in run.answers]
    figures: Json = dict(summarise(records, promise, run.warm_up_s, wasted_tokens))
    first = run.first_tries()
    failed, refusals = sum(one.outcome in FAILURES for one in first), _refusals(first)
    for name, row in figures["classes"].items():
        row |= _class([one for one in first if one.class_name == name], row)
    return figures | {
        "outcomes": dict(sorted(Counter(one.outcome for one in first).items())),
        "failed": {"count": failed, "share": round(_share(failed, len(first)), 4)},
        "refused_share": refusals["share"],
        "refusals": refusals,
        "latest_send_s": round(max((one.sent_late_s for one in run.answers), default=0.0), 4),
    }


def beside(run: Run, bare: Run) -> Json:
    """By class: how many times as long as on `bare` the first token and the whole answer took, as medians of
    the ratios of the requests that both completed: the same, and sent at the same times."""
    other = {one.request_id: one for one in bare.first_tries()}
    ttfts: dict[str, Ratios] = {}
    ends: dict[str, Ratios] = {}
    for one in run.first_tries():
        its = other.get(one.request_id)
        if its is not None and one.outcome == its.outcome == COMPLETED and one.ttft_s and its.ttft_s:
            # Ids are numbered within a round.
            round_ = one.request_id.rpartition("-")[0]
            for ratios, ratio in ((ttfts, one.ttft_s / its.ttft_s), (ends, one.ended_s / its.ended_s)):
                ratios.setdefault(one.class_name, {}).setdefault(round_, []).append(ratio)
    return {
        name: {
            "requests": sum(map(len, rounds.values())),
            "ttft_ratio": _over_rounds(rounds),
            "e2e_ratio": _over_rounds(ends[name]),
        }
        for name, rounds in sorted(ttfts.items())
    }


def _over_rounds(rounds: Ratios) -> dict[str, float]:
    """The median of all, and the least and largest of the rounds' own: requests of one round share a server
    and a moment of the machine, so that their number says nothing of how sure the median is."""
    medians = [median(ratios) for ratios in rounds.values()]
    return {"median": median(chain(*rounds.values())), "low": min(medians), "high": max(medians)}


def _class(answers: Sequence[Answer], row: Json) -> Json:
    admitted = _share(sum(map(_is_admitted, answers)), len(answers))
    tpots = [one.tpot_s for one in answers if one.tpot_s is not None]
    predicted = [one for one in answers if one.predicted_ttft_s is not None and one.ttft_s is not None]
    return {
        "admitted": round(admitted, 4),
        "kept_of_admitted": round(_share(row["attainment"], admitted), 4),
        "tpot_p95_s": percentile(tpots, 0.95, 4),
        "gap_max_s": round(max((gap for one in answers for gap in one.gaps_s), default=0.0), 4),
        "longest_wait_s": round(max((_wait_s(one) for one in answers), default=0.0), 3),
        "predicted": len(predicted),
        "predicted_within_25_percent": round(_share(sum(map(_is_right, predicted)), len(predicted)), 4),
        "refusals": _refusals(answers),
    }


def _is_admitted(answer: Answer) -> bool:
    """Not refused at once. A request that was evicted had been let into the queue, and so had one whose
    client gave up or whose engine died. Of what a dead server has seen nobody knows: it counts."""
    if answer.code.startswith("evicted"):
        return True
    return answer.outcome != REFUSED and not answer.code.startswith("rejected")


def _wait_s(answer: Answer) -> float:
    """Until the first token, or until the client knew that there would be none."""
    return answer.ended_s if answer.ttft_s is None else answer.ttft_s


def _is_right(answer: Answer) -> bool:
    assert answer.predicted_ttft_s is not None
    assert answer.ttft_s is not None
    return abs(answer.predicted_ttft_s - answer.ttft_s) <= PREDICTION_TOLERANCE * answer.ttft_s


def _refusals(answers: Sequence[Answer]) -> Json:
    refused = [one for one in answers if one.outcome == REFUSED]
    # What was let into the queue and then evicted has waited by its own will.
    times_ms = [one.ended_s * 1000 for one in refused if not _is_admitted(one)]
    hints_s = [one.retry_after_s for one in refused if one.retry_after_s is not None]
    return {
        "count": len(refused),
        "share": round(_share(len(refused), len(answers)), 4),
        "at_once_share": round(_share(len(times_ms), len(refused)), 4),
        "time_p50_ms": percentile(times_ms, 0.5, 1),
        "time_p99_ms": percentile(times_ms, 0.99, 1),
        "hinted_share": round(_share(len(hints_s), len(refused)), 4),
        "hint_median_s": median(hints_s) if hints_s else None,
        "hint_max_s": max(hints_s, default=None),
        "codes": dict(sorted(Counter(f"{one.status} {one.code}".strip() for one in refused).items())),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
