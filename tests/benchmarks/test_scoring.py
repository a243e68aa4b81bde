"""Summary arithmetic: shares of what was offered, TPOT, fairness, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.load.streams import BROKEN, COMPLETED, FAILED, GAVE_UP, REFUSED, UNREACHABLE, Answer
from benchmarks.scoring import Run, beside, score
from placement.simulation.summary import Promise
from placement.simulation.workload import Request

PROMISE = Promise({"interactive": 1.0, "batch": 60.0}, tpot_s=0.2)


def answer(number: int, class_name: str = "interactive", tenant: str = "a", **fields) -> Answer:
    return Answer(f"r{number}", tenant, class_name, 0.0, **fields)


def completed(number: int, ttft_s: float = 0.5, ended_s: float = 1.5, **fields) -> Answer:
    given = {"status": 200, "prompt_tokens": 10, "output_tokens": 11, **fields}
    return answer(number, outcome=COMPLETED, ttft_s=ttft_s, ended_s=ended_s, **given)


def refused(number: int, ended_s: float = 0.004, **fields) -> Answer:
    return answer(number, outcome=REFUSED, status=429, code="rejected_full", ended_s=ended_s, **fields)


def scored(*answers: Answer, arrived_s: float = 10.0, warm_up_s: float = 5.0):
    requests = {
        one.request_id: Request(one.request_id, arrived_s, 10, 11, one.tenant, one.class_name)
        for one in answers
    }
    return score(Run(requests, answers, warm_up_s), PROMISE)


def test_tpot_is_the_time_after_the_first_token_over_the_other_tokens():
    assert completed(0, ttft_s=0.5, ended_s=1.5).tpot_s == pytest.approx(0.1)
    assert completed(0, output_tokens=1).tpot_s is None


def test_attainment_is_over_what_was_offered():
    late, slow = completed(1, ttft_s=1.1), completed(2, ended_s=5.0)
    figures = scored(completed(0), late, slow, refused(3))
    row = figures["classes"]["interactive"]
    assert figures["goodput_share"] == row["attainment"] == 0.25
    assert row["kept_of_admitted"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["outcomes"] == {COMPLETED: 3, REFUSED: 1}


def test_admitted_is_what_was_not_refused_at_once_whatever_became_of_it():
    evicted = answer(1, outcome=REFUSED, status=429, code="evicted_deadline", ended_s=3.0)
    lost = answer(2, outcome=FAILED, status=503, code="engine_lost")
    gave_up, broken = answer(3, outcome=GAVE_UP), answer(4, outcome=BROKEN)
    turned_away = answer(5, outcome=FAILED, status=503, code="rejected_no_engine")
    figures = scored(completed(0), evicted, lost, gave_up, broken, turned_away, refused(6), refused(7))
    row = figures["classes"]["interactive"]
    assert (row["offered"], row["admitted"], row["kept_of_admitted"]) == (8, 0.625, 0.2)
    assert (figures["refused_share"], figures["refusals"]["count"]) == (0.375, 3)
    assert figures["refusals"]["at_once_share"] == pytest.approx(2 / 3, abs=1e-4)


def test_a_server_that_died_is_told_from_one_that_keeps_nothing():
    dead = [answer(1, outcome=UNREACHABLE), answer(2, outcome=FAILED, status=500), answer(3, outcome=BROKEN)]
    figures = scored(completed(0), *dead, refused(4), answer(5, outcome=GAVE_UP))
    assert figures["failed"] == {"count": 3, "share": 0.5}
    assert scored(completed(0), refused(1))["failed"]["count"] == 0


def test_the_prompt_of_an_answer_that_began_and_broke_was_computed_for_nothing():
    """Prompts of 10 tokens, answers of 11."""
    begun = answer(1, outcome=BROKEN, ttft_s=0.5, output_tokens=4)
    assert scored(completed(0), begun)["wasted_share"] == pytest.approx(14 / 35, abs=1e-4)
    # Nothing of these was computed, as far as their clients know.
    assert scored(completed(0), refused(1), answer(2, outcome=GAVE_UP))["wasted_share"] == 0.0


def test_what_arrived_in_the_warm_up_does_not_count():
    assert scored(completed(0), arrived_s=4.0)["offered"] == 0


def test_the_longest_wait_counts_those_that_waited_for_nothing():
    gave_up = answer(1, "batch", outcome=GAVE_UP, ended_s=90.0)
    row = scored(completed(0, class_name="batch"), gave_up)["classes"]["batch"]
    assert row["longest_wait_s"] == 90.0
    assert row["attainment"] == 0.5


def test_refusals_have_their_times_and_hints():
    refusals = scored(
        refused(0, 0.002, retry_after_s=3.0), refused(1, 0.004, retry_after_s=9.0), refused(2, 0.030)
    )["refusals"]
    assert (refusals["count"], refusals["share"]) == (3, 1.0)
    assert (refusals["time_p50_ms"], refusals["time_p99_ms"]) == (4.0, 30.0)
    assert refusals["hinted_share"] == pytest.approx(2 / 3, abs=1e-4)
    assert (refusals["hint_median_s"], refusals["hint_max_s"]) == (6.0, 9.0)
    assert refusals["codes"] == {"429 rejected_full": 3}


def test_what_was_not_measured_has_no_figure():
    figures = scored(refused(0))
    assert figures["classes"]["interactive"]["tpot_p95_s"] is None
    refusals = scored(completed(0))["refusals"]
    assert (refusals["time_p50_ms"], refusals["time_p99_ms"]) == (None, None)


def test_jain_is_over_the_cost_that_backlogged_tenants_got():
    even = scored(
        *(completed(n, tenant=t) for n, t in enumerate("ab")),
        *(refused(n, tenant="ab"[n % 2]) for n in (2, 3)),
    )
    # Both asked for two; one got both of its own.
    uneven = scored(*(completed(n, tenant="a") for n in (0, 1)), *(refused(n, tenant="b") for n in (2, 3)))
    assert even["jain"]["interactive"] == 1.0
    assert uneven["jain"]["interactive"] == 0.5


def test_a_prediction_is_right_within_a_quarter_of_what_was_measured():
    right, wrong = completed(0, predicted_ttft_s=0.6), completed(1, predicted_ttft_s=0.7)
    row = scored(right, wrong, completed(2))["classes"]["interactive"]
    assert (row["predicted"], row["predicted_within_25_percent"]) == (2, 0.5)


def test_returns_are_counted_apart():
    back = completed(0)
    back.returned = True
    figures = scored(refused(0, retry_after_s=1.0), back)
    assert figures["offered"] == 1
    assert figures["returned"]["returned"] == 1
    assert figures["returned"]["admitted_share"] == 1.0


def test_beside_bare_only_what_both_completed_is_compared():
    def run(*answers: Answer) -> Run:
        return Run({one.request_id: Request(one.request_id, 10.0, 10, 11) for one in answers}, answers, 5.0)

    ours = run(
        completed(0, ttft_s=0.5, ended_s=1.5),
        completed(1, ttft_s=0.6, ended_s=1.0),
        completed(2, ttft_s=9.0),
        refused(3),
        completed(4, class_name="batch"),
        completed(5, returned=True),
    )
    bare = run(
        *(completed(number, ttft_s=0.4, ended_s=1.0) for number in (0, 1, 3, 5)), answer(2, outcome=GAVE_UP)
    )
    figures = beside(ours, bare)
    assert list(figures) == ["interactive"]
    row = figures["interactive"]
    assert (row["requests"], row["ttft_ratio"]["median"]) == (2, pytest.approx(1.375))
    assert row["e2e_ratio"]["median"] == pytest.approx(1.25)


def test_how_sure_a_ratio_is_the_rounds_say_and_not_their_requests():
    ids = [f"{round_}-{number}" for round_ in range(2) for number in range(3)]
    bare = [replace(completed(0, ttft_s=1.0), request_id=one) for one in ids]
    # The second round's are twice as long as the first's.
    ttfts_s = (1.0, 1.1, 1.2, 2.0, 2.1, 2.2)
    ours = [replace(one, ttft_s=ttft_s) for one, ttft_s in zip(bare, ttfts_s, strict=True)]
    requests = {one: Request(one, 10.0, 10, 11) for one in ids}
    ratio = beside(Run(requests, ours, 5.0), Run(requests, bare, 5.0))["interactive"]["ttft_ratio"]
    assert ratio == {"median": pytest.approx(1.6), "low": pytest.approx(1.1), "high": pytest.approx(2.1)}
