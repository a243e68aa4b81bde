"""What was measured of a running application; durations in seconds or milliseconds as named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NotMeasured:
    """A measurement that could not be had, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Latency:
    """A closed loop at the promised lengths: one value a completed request."""

    prompt_tokens: int
    output_tokens: int
    streams: int
    ttfts_ms: tuple[float, ...]
    tpots_ms: tuple[float, ...]
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Throughput:
    """An open loop at the promised rate. `ended_s`: when requests completed, from the first one's start."""

    offered: int
    offered_per_s: float
    ended_s: tuple[float, ...]
    # By the server's word for it.
    refusals: dict[str, int]


@dataclass(frozen=True, slots=True)
class EngineSample:
    """All engines at one moment of the filling: the fullest cache, requests and preemptions together."""

    at_s: float
    kv_use: float
    running: int
    preemptions: int


@dataclass(frozen=True, slots=True)
class Filling:
    """Long requests until every place is taken, or no more are let in. `kv_tokens`: the smallest cache's."""

    samples: tuple[EngineSample, ...]
    kv_tokens: int | None
    places: int
    started: int
    request_tokens: int
    ended_because: str

    @property
    def peak_kv_use(self) -> float:
        return max((sample.kv_use for sample in self.samples), default=0.0)

    @property
    def peak_running(self) -> int:
        return max((sample.running for sample in self.samples), default=0)

    @property
    def preemptions(self) -> int:
        """Counters begin anew with an engine that is replaced."""
        counts = [sample.preemptions for sample in self.samples]
        return max(counts) - counts[0] if counts else 0


@dataclass(frozen=True, slots=True)
class RankState:
    """One rank at one moment. `busy_s` counts on, `utilisation` (0 to 1) is of the moment; None: unknown."""

    replica: str
    rank: int
    device: str
    memory_bytes: int
    # Of the device; several ranks of a CPU share one.
    device_bytes: int
    busy_s: float | None = None
    utilisation: float | None = None

    @property
    def name(self) -> str:
        return f"{self.replica[:8]}/{self.rank}"


Ranks = tuple[RankState, ...]


@dataclass(frozen=True, slots=True)
class Measurements:
    """One run. `ranks_loaded`: at times, under the promised rate; `ranks_full`: with a full cache."""

    latency: Latency | NotMeasured
    throughput: Throughput | NotMeasured
    filling: Filling | NotMeasured
    ranks_loaded: tuple[Ranks, ...] | NotMeasured
    ranks_full: Ranks | NotMeasured
    requests: int
    # What failed, in words, and how often.
    failures: dict[str, int]
