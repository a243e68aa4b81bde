"""A figure over time: what most of its last samples stayed below, how often it rose, where it goes."""

from __future__ import annotations

import math
from collections import deque

from app.flow.estimate import nearest_rank

# Bounds memory, and what it costs to put them in order.
MAX_SAMPLES = 8192


class SlidingQuantile:
    """What a share of the samples of the last `window_s` does not exceed; the newest `most` are kept.

    Of samples that are closer than `grain_s` the first counts. Adding is cheap; they are put in order when
    they are asked about. Where the clock was set back, it begins anew.
    """

    __slots__ = ("_changed", "_grain_s", "_least", "_samples", "_share", "_value", "_window_s")

    def __init__(
        self, window_s: float, share: float, least: int = 1, most: int = MAX_SAMPLES, grain_s: float = 0.0
    ) -> None:
        self._window_s = window_s
        self._share = share
        self._least = least
        self._grain_s = grain_s
        self._samples: deque[tuple[float, float]] = deque(maxlen=most)
        self._changed = False
        self._value: float | None = None

    def add(self, sample: float, now_s: float) -> None:
        samples = self._samples
        self._forget(now_s)
        if not samples or now_s - samples[-1][0] >= self._grain_s:
            samples.append((now_s, sample))
            self._changed = True

    def value(self, now_s: float) -> float | None:
        """None where there are fewer than `least`."""
        samples = self._samples
        self._forget(now_s)
        if self._changed:
            self._changed = False
            enough = len(samples) >= self._least
            self._value = nearest_rank((sample for _, sample in samples), self._share) if enough else None
        return self._value

    def _forget(self, now_s: float) -> None:
        samples = self._samples
        set_back = bool(samples) and now_s < samples[-1][0]
        while samples and (set_back or now_s - samples[0][0] > self._window_s):
            samples.popleft()
            self._changed = True


class Rises:
    """How often a figure has risen above half of its peak in the last `window_s`, from below a quarter."""

    __slots__ = ("_high", "_times", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        # None: nobody knows where it comes from.
        self._high: bool | None = None
        self._times: deque[float] = deque(maxlen=MAX_SAMPLES)

    def add(self, sample: float, peak: float, now_s: float) -> None:
        if self._high:
            self._high = sample >= peak / 4.0
        elif sample > peak / 2.0:
            if self._high is not None:
                self._times.append(now_s)
            self._high = True
        else:
            self._high = False
        while self._times and now_s - self._times[0] > self._window_s:
            self._times.popleft()

    @property
    def count(self) -> int:
        """As of the last sample."""
        return len(self._times)


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
