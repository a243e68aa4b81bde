"""From measurements to verdicts: pure. Every promise gets one, whatever could be measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.flow.estimate import nearest_rank
from app.promises import PromisesConfig
from app.validation.measured import Filling, Latency, Measurements, NotMeasured, Ranks, RankState, Throughput
from placement.memory import spread

# Completions that come this much slower than they are offered are still the promised rate: the ends of a
# run of seconds are ragged.
RATE_TOLERANCE = 0.05


class Status(StrEnum):
    PASS = "pass"
    FAIL = "fail"
    NOT_MEASURABLE = "not measurable here"


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one promise: `promised` is the most or the least (`sense`) that `measured` may be, both in `unit`.

    `detail` says how it was measured, or why not.
    """

    promise: str
    title: str
    unit: str
    sense: str
    promised: float
    measured: float | None
    status: Status
    detail: str


AT_MOST, AT_LEAST = "at most", "at least"


@dataclass(frozen=True, slots=True)
class _Promise:
    key: str
    title: str
    unit: str
    promised: float
    sense: str = AT_MOST

    def judge(self, measured: float, detail: str, tolerance: float = 0.0) -> Verdict:
        if self.sense == AT_MOST:
            kept = measured <= self.promised * (1 + tolerance)
        else:
            kept = measured >= self.promised * (1 - tolerance)
        return self._verdict(measured, Status.PASS if kept else Status.FAIL, detail)

    def unknown(self, reason: str) -> Verdict:
        return self._verdict(None, Status.NOT_MEASURABLE, reason)

    def _verdict(self, measured: float | None, status: Status, detail: str) -> Verdict:
        return Verdict(self.key, self.title, self.unit, self.sense, self.promised, measured, status, detail)


def judge(promises: PromisesConfig, kv_tokens: int, measured: Measurements) -> list[Verdict]:
    """One verdict a promise; `kv_tokens` is what an engine's cache has to hold."""
    return [
        *_latency(promises, measured.latency),
        _throughput(promises, measured.throughput),
        _memory(promises, measured.ranks_full, measured.filling),
        _kv_tokens(kv_tokens, measured.filling),
        _preemptions(promises, measured.filling),
        _load_balance(promises, measured.ranks_loaded),
        _memory_balance(promises, measured.ranks_full),
        _errors(promises, measured),
    ]


def kept(verdicts: Sequence[Verdict]) -> bool:
    """False when a promise is broken; what could not be measured breaks none."""
    return all(verdict.status is not Status.FAIL for verdict in verdicts)


def _latency(promises: PromisesConfig, latency: Latency | NotMeasured) -> Iterator[Verdict]:
    for phase, measure in (("prefill", "ttft"), ("decode", "tpot")):
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            key = f"{measure}_{name}_ms"
            title = f"{phase} {name.upper()} ({measure.upper()})"
            promise = _Promise(key, title, "ms", getattr(promises, key))
            if isinstance(latency, NotMeasured):
                yield promise.unknown(latency.reason)
                continue
            values = latency.ttfts_ms if measure == "ttft" else latency.tpots_ms
            if not values:
                yield promise.unknown(f"no request completed, {latency.refused} were refused")
            else:
                detail = _latency_detail(latency, len(values))
                largest = f"; the largest of {len(values)}" if share * len(values) > len(values) - 1 else ""
                yield promise.judge(nearest_rank(values, share), detail + largest)


def _latency_detail(latency: Latency, count: int) -> str:
    lengths = f"{latency.prompt_tokens}/{latency.output_tokens} tokens"
    refused = f", {latency.refused} more were refused" if latency.refused else ""
    return f"{count} requests of {lengths}, {latency.streams} at a time{refused}"


def _throughput(promises: PromisesConfig, throughput: Throughput | NotMeasured) -> Verdict:
    promise = _Promise(
        "requests_per_s", "throughput sustained", "requests/s", promises.requests_per_s, AT_LEAST
    )
    if isinstance(throughput, NotMeasured):
        return promise.unknown(throughput.reason)
    words = ", ".join(f"{count} {why}" for why, count in throughput.refusals.items())
    detail = f"{len(throughput.ended_s)} of {throughput.offered} completed, offered at "
    detail += f"{throughput.offered_per_s:.3g} a second"
    detail += f"; refused: {words}" if words else ""
    return promise.judge(completion_rate(throughput.ended_s), detail, RATE_TOLERANCE)


def completion_rate(ended_s: Sequence[float]) -> float:
    """Between completions, once a quarter of them has come: the first requests find an idle engine."""
    steady = sorted(ended_s)[len(ended_s) // 4 :]
    if len(steady) < 2:
        return 0.0
    return (len(steady) - 1) / max(steady[-1] - steady[0], 1e-9)


def _memory(promises: PromisesConfig, ranks: Ranks | NotMeasured, filling: Filling | NotMeasured) -> Verdict:
    promise = _Promise("memory_share", "memory of the fullest device", "%", 100 * promises.memory_share)
    if isinstance(ranks, NotMeasured):
        return promise.unknown(ranks.reason)
    if not ranks:
        return promise.unknown("no rank says what it holds")
    shares = memory_shares(ranks)
    device = max(shares, key=shares.__getitem__)
    fill = "" if isinstance(filling, NotMeasured) else f", the cache {100 * filling.peak_kv_use:.0f} % full"
    return promise.judge(100 * shares[device], f"{device}{fill}")


def memory_shares(ranks: Ranks) -> dict[str, float]:
    """By device: what its ranks hold, of all it has."""
    held: dict[str, int] = {}
    for rank in ranks:
        held[rank.device] = held.get(rank.device, 0) + rank.memory_bytes
    return {rank.device: held[rank.device] / rank.device_bytes for rank in ranks}


def _kv_tokens(kv_tokens: int, filling: Filling | NotMeasured) -> Verdict:
    promise = _Promise("kv_tokens", "KV cache of an engine", "tokens", kv_tokens, AT_LEAST)
    if isinstance(filling, NotMeasured):
        return promise.unknown(filling.reason)
    if filling.kv_tokens is None:
        return promise.unknown("the engine does not say how many tokens its cache holds")
    detail = (
        f"filled to {100 * filling.peak_kv_use:.0f} % by {filling.peak_running} of {filling.places} requests "
        f"of {filling.request_tokens} tokens at once: {filling.ended_because}"
    )
    return promise.judge(filling.kv_tokens, detail)


def _preemptions(promises: PromisesConfig, filling: Filling | NotMeasured) -> Verdict:
    promised = promises.preemptions_per_request
    promise = _Promise("preemptions_per_request", "preemptions", "a request", promised)
    if isinstance(filling, NotMeasured):
        return promise.unknown(filling.reason)
    if not filling.started:
        return promise.unknown(f"no request began to answer: {filling.ended_because}")
    detail = f"{filling.preemptions} while {filling.started} requests filled the cache"
    return promise.judge(filling.preemptions / filling.started, detail)


def _load_balance(promises: PromisesConfig, moments: tuple[Ranks, ...] | NotMeasured) -> Verdict:
    promise = _Promise("load_imbalance", "imbalance of the ranks' load", "%", 100 * promises.load_imbalance)
    if isinstance(moments, NotMeasured):
        return promise.unknown(moments.reason)
    loads = rank_loads(moments)
    if (reason := _incomparable(loads)) is not None:
        return promise.unknown(reason)
    what = "GPU utilisation" if moments[0][0].busy_s is None else "CPU time in the ranks' own steps"
    return promise.judge(100 * spread(list(loads.values())), f"{what}: {_extremes(loads)}")


def rank_loads(moments: Sequence[Ranks]) -> dict[str, float]:
    """By rank: seconds busy between the first moment and the last, else the mean utilisation in per cent."""
    seen: dict[str, list[RankState]] = {}
    for rank in (rank for ranks in moments for rank in ranks):
        seen.setdefault(rank.name, []).append(rank)
    loads = {name: _load(states) for name, states in seen.items()}
    return {name: load for name, load in loads.items() if load is not None}


def _load(states: Sequence[RankState]) -> float | None:
    busy_s = [state.busy_s for state in states if state.busy_s is not None]
    if len(busy_s) > 1:
        return busy_s[-1] - busy_s[0]
    used = [state.utilisation for state in states if state.utilisation is not None]
    return 100 * sum(used) / len(used) if used else None


def _memory_balance(promises: PromisesConfig, ranks: Ranks | NotMeasured) -> Verdict:
    promised = 100 * promises.memory_imbalance
    promise = _Promise("memory_imbalance", "imbalance of the ranks' memory", "%", promised)
    if isinstance(ranks, NotMeasured):
        return promise.unknown(ranks.reason)
    held = {rank.name: rank.memory_bytes / 2**20 for rank in ranks}
    if (reason := _incomparable(held)) is not None:
        return promise.unknown(reason)
    return promise.judge(100 * spread(list(held.values())), f"MiB: {_extremes(held)}")


def _incomparable(values: dict[str, float]) -> str | None:
    """Why there is no balance to speak of, if there is none."""
    if not values:
        return "no rank says how busy it is"
    if len(values) == 1:
        return "there is one rank: nothing to balance"
    return None if sum(values.values()) > 0 else "no rank did anything"


def _extremes(values: dict[str, float]) -> str:
    least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return f"{values[least]:.4g} ({least}) to {values[most]:.4g} ({most}), {len(values)} ranks"


def _errors(promises: PromisesConfig, measured: Measurements) -> Verdict:
    promise = _Promise("error_share", "errors", "%", 100 * promises.error_share)
    if not measured.requests:
        return promise.unknown("no request was sent")
    failed = sum(measured.failures.values())
    words = ", ".join(f"{count} x {why}" for why, count in measured.failures.items())
    detail = f"{failed} of {measured.requests} requests{': ' if words else ''}{words}"
    return promise.judge(100 * failed / measured.requests, detail)
