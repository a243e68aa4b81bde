"""A figure over time: what most of its last samples stayed below, and where it goes."""

from __future__ import annotations

import math
from collections import deque

from app.flow.estimate import nearest_rank

# Bounds the memory of whoever adds samples faster than about once a second.
MAX_SAMPLES = 4096


class SlidingQuantile:
    """What a share of the samples of the last `window_s` does not exceed; the newest `most` are kept."""

    __slots__ = ("_least", "_samples", "_share", "_window_s")

    def __init__(self, window_s: float, share: float, least: int = 1, most: int = MAX_SAMPLES) -> None:
        self._window_s = window_s
        self._share = share
        self._least = least
        self._samples: deque[tuple[float, float]] = deque(maxlen=most)

    def add(self, sample: float, now_s: float) -> None:
        self._samples.append((now_s, sample))
        while now_s - self._samples[0][0] > self._window_s:
            self._samples.popleft()

    def value(self, now_s: float, within_s: float = math.inf, share: float | None = None) -> float | None:
        """Of the window, or of its last `within_s`; what its own share of them does not exceed, or another.
        None where there are fewer than `least`."""
        window_s = min(self._window_s, within_s)
        recent = [sample for at_s, sample in self._samples if now_s - at_s <= window_s]
        share = self._share if share is None else share
        return nearest_rank(recent, share) if len(recent) >= self._least else None


class Trend:
    """A line through what was some time ago and what is now, each smoothed over `horizon_s`."""

    __slots__ = ("_at_s", "_fast", "_horizon_s", "_slow")

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = horizon_s
        self._fast = self._slow = 0.0
        self._at_s: float | None = None

    def add(self, sample: float, now_s: float) -> None:
        """A time before the last one counts as the last one; the first sample counts whole."""
        if self._at_s is None:
            self._fast = self._slow = sample
        else:
            passed = max(0.0, now_s - self._at_s) / self._horizon_s
            self._fast += (1.0 - math.exp(-passed)) * (sample - self._fast)
            # Of a straight line, this one is as old again.
            self._slow += (1.0 - math.exp(-passed / 2.0)) * (sample - self._slow)
        self._at_s = now_s

    def ahead(self, span_s: float) -> float:
        """Where a rise leads within `span_s`; a fall leads nowhere."""
        rise_per_s = (self._fast - self._slow) / self._horizon_s
        # On a straight line the smoothed figure is as old as the horizon.
        return self._fast + max(0.0, rise_per_s) * (self._horizon_s + span_s)
