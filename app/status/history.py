"""What was: the queue over the last minutes and the last decisions to scale, in constant space."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

# 150 points are what a line of a page can show.
GRAIN_S = 2.0
MAX_SAMPLES = 150
# What a person reads.
MAX_DECISIONS = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """The longest queue and the most leases within one grain; `at_s` is its start."""

    at_s: float
    queued: int
    in_flight: int


class History:
    """Samples, oldest first. A clock that is set back adds to the newest grain."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)

    def add(self, queued: int, in_flight: int, now_s: float) -> None:
        start_s = now_s - now_s % GRAIN_S
        if self._samples and start_s <= self._samples[-1].at_s:
            last = self._samples.pop()
            queued, in_flight = max(queued, last.queued), max(in_flight, last.in_flight)
            start_s = last.at_s
        self._samples.append(Sample(start_s, queued, in_flight))

    def samples(self) -> tuple[Sample, ...]:
        return tuple(self._samples)


@dataclass(frozen=True, slots=True)
class ScaleDecision:
    """From `at_s` on so many engines were asked for, and why."""

    at_s: float
    engines: int
    reason: str


class ScaleLog:
    """The last decisions that say something new, newest first."""

    def __init__(self) -> None:
        self._decisions: deque[ScaleDecision] = deque(maxlen=MAX_DECISIONS)

    @property
    def newest(self) -> ScaleDecision | None:
        return self._decisions[0] if self._decisions else None

    def add(self, engines: int, reason: str, now_s: float) -> None:
        """A decision; the same as the newest one is not new."""
        newest = self.newest
        if newest is None or (newest.engines, newest.reason) != (engines, reason):
            self._decisions.appendleft(ScaleDecision(now_s, engines, reason))

    def decisions(self) -> tuple[ScaleDecision, ...]:
        return tuple(self._decisions)
