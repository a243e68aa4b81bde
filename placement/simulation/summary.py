"""What a run is judged by. All shares are of OFFERED requests: refusing is not free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from app.flow.config import ClassPolicy
from app.flow.estimate import nearest_rank
from placement.simulation.simulator import Record

# A tenant counts as backlogged when it asked for more than its share by this much.
BACKLOGGED_SHARE = 0.05
# A prediction is right within this share of the actual value.
PREDICTION_TOLERANCE = 0.25
Json = dict[str, object]


# Five tokens a second: people read about four (`flow.limit.itl_budget_s`).
READING_TPOT_S = 0.2


@dataclass(frozen=True, slots=True)
class Promise:
    """What makes a request good: its class's budget for the first token and a bound on the pace after it."""

    ttft_s: dict[str, float]
    tpot_s: float = READING_TPOT_S

    def kept(self, record: Record) -> bool:
        ttft = record.ttft_s
        if record.finished_s is None or ttft is None or ttft > self.ttft_s[record.request.class_name]:
            return False
        tpot = record.tpot_s
        return tpot is None or tpot <= self.tpot_s


def promise_of(classes: Sequence[ClassPolicy]) -> Promise:
    return Promise({policy.name: policy.ttft_budget_s for policy in classes})


def percentile(values: Sequence[float], share: float, places: int | None = None) -> float | None:
    """Nearest rank, to so many decimal places; None of nothing."""
    if not values:
        return None
    found = nearest_rank(values, share)
    return found if places is None else round(found, places)


def jain_index(values: Sequence[float]) -> float:
    """1 when all are equal, 1 / n when one has everything; 1 for fewer than two."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if len(values) > 1 and squares else 1.0


def summarise(records: Sequence[Record], promise: Promise, warm_up_s: float, wasted_tokens: int) -> Json:
    """Figures over the requests that arrived after the warm-up."""
    first = [one for one in records if not one.returned and one.request.arrived_s >= warm_up_s]
    kept = [one for one in first if promise.kept(one)]
    classes = sorted(promise.ttft_s, key=lambda name: promise.ttft_s[name])
    return {
        "offered": len(first),
        "goodput_share": _share(len(kept), len(first)),
        "unanswered_share": _share(sum(one.finished_s is None for one in first), len(first)),
        "wasted_share": _wasted(records, promise, wasted_tokens),
        "jain": {name: round(_jain(first, name), 4) for name in classes},
        "jain_of_entitled": {name: round(_jain_of_entitled(first, name), 4) for name in classes},
        "classes": {name: _class(first, name, promise) for name in classes},
        "prediction": _prediction(first),
        "returned": _returned(records),
        "outcomes": dict(sorted(Counter(one.outcome.label for one in first if one.outcome).items())),
        "revokes": sum(one.revokes for one in first),
    }


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def _class(records: Sequence[Record], name: str, promise: Promise) -> Json:
    of_class = [one for one in records if one.request.class_name == name]
    waits = [one.granted_s for one in of_class if one.granted_s is not None]
    ttfts = [one.ttft_s for one in of_class if one.ttft_s is not None]
    return {
        "offered": len(of_class),
        "attainment": _share(sum(promise.kept(one) for one in of_class), len(of_class)),
        "answered": _share(sum(one.finished_s is not None for one in of_class), len(of_class)),
        "ttft_p50_s": percentile(ttfts, 0.5, 4),
        "ttft_p95_s": percentile(ttfts, 0.95, 4),
        "queue_wait_max_s": round(max(waits, default=0.0), 4),
    }


def _wasted(records: Sequence[Record], promise: Promise, aborted_tokens: int) -> float:
    """Tokens computed for requests that broke their promise or were thrown away, of all tokens."""
    good = late = 0
    for one in records:
        if one.finished_s is not None:
            tokens = one.request.prompt_tokens + one.request.output_tokens
            good, late = (good + tokens, late) if promise.kept(one) else (good, late + tokens)
    return _share(late + aborted_tokens, good + late + aborted_tokens)


def _costs(records: Sequence[Record], name: str) -> tuple[Counter[str], Counter[str]]:
    """Cost (prompt + 2 x output) offered and served, by tenant of one class."""
    offered: Counter[str] = Counter()
    served: Counter[str] = Counter()
    for one in records:
        if one.request.class_name == name:
            cost = one.request.prompt_tokens + 2 * one.request.output_tokens
            offered[one.request.tenant] += cost
            served[one.request.tenant] += cost if one.finished_s is not None else 0
    return offered, served


def max_min_shares(demands: dict[str, float], total: float) -> dict[str, float]:
    """Water filling: nobody gets more than it asks for, and what is left is shared equally."""
    shares: dict[str, float] = {}
    left = total
    for count, tenant in zip(
        range(len(demands), 0, -1), sorted(demands, key=lambda t: (demands[t], t)), strict=True
    ):
        shares[tenant] = min(demands[tenant], left / count)
        left -= shares[tenant]
    return shares


def _jain(records: Sequence[Record], name: str) -> float:
    """Over the cost served to the backlogged tenants: those that asked for more than their max-min share."""
    offered, served = _costs(records, name)
    shares = max_min_shares(dict(offered), served.total())
    backlogged = [t for t in offered if offered[t] * (1 - BACKLOGGED_SHARE) > shares[t]]
    return jain_index([served[t] for t in backlogged])


def _jain_of_entitled(records: Sequence[Record], name: str) -> float:
    """Over served / max-min share, all tenants of the class: 1 when everyone got exactly its due."""
    offered, served = _costs(records, name)
    shares = max_min_shares(dict(offered), served.total())
    return jain_index([served[t] / shares[t] for t in sorted(offered) if shares[t] > 0])


def _prediction(records: Sequence[Record]) -> Json:
    """How often the time to first token predicted on arrival was right."""
    pairs = [
        (one.predicted_ttft_s, one.ttft_s)
        for one in records
        if one.predicted_ttft_s is not None and one.ttft_s is not None
    ]
    right = sum(abs(predicted - actual) <= PREDICTION_TOLERANCE * actual for predicted, actual in pairs)
    below = sum(actual <= (1 + PREDICTION_TOLERANCE) * predicted for predicted, actual in pairs)
    close = sum(abs(p - a) <= max(PREDICTION_TOLERANCE * a, 0.25) for p, a in pairs)
    return {
        "predicted": len(pairs),
        "within_25_percent": _share(right, len(pairs)),
        "within_25_percent_or_250_ms": _share(close, len(pairs)),
        "not_later_than_25_percent": _share(below, len(pairs)),
    }


def _returned(records: Sequence[Record]) -> Json:
    """Clients that came back when they were told to, and how many were let in."""
    promised = {one.request.request_id for one in records if one.promised}
    back = [one for one in records if one.returned]
    kept = [one for one in back if one.request.request_id[:-1] in promised]
    return {
        "returned": len(back),
        "admitted_share": _share(sum(one.granted_s is not None for one in back), len(back)),
        "promised": len(kept),
        "promised_admitted_share": _share(sum(one.granted_s is not None for one in kept), len(kept)),
    }
