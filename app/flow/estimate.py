"""Running estimates in constant space: mean, quantile, window, line and rate."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable

# The step of a quantile's walk, as a share of its value: settles within about a hundred samples.
QUANTILE_STEP = 0.05
# Below this the determinant of the normal equations is noise: all samples at one x.
MIN_VARIANCE = 1e-9
# A rate decays in grains of this length: an exponential for each event would be most of its cost.
GRAIN_S = 0.02


def nearest_rank(values: Iterable[float], share: float) -> float:
    """The least of the values that this share of them does not exceed. Raises IndexError of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class RunningMean:
    """Exponentially weighted mean; early samples weigh as in a plain mean after `prior` initial ones."""

    __slots__ = ("_count", "_smoothing", "value")

    def __init__(self, initial: float, smoothing: float, prior: int = 0) -> None:
        self.value = initial
        self._smoothing = smoothing
        self._count = prior

    def add(self, sample: float) -> None:
        self._count += 1
        share = 1.0 / self._count
        if share < self._smoothing:
            share = self._smoothing
        self.value += (sample - self.value) * share


class RunningQuantile:
    """A quantile of positive samples by a multiplicative walk (Robbins and Monro, 1951, on the logarithm).

    It rises by `step x share` after a sample above it and falls by `step x (1 - share)` after one below:
    at rest when `share` of the samples lie below.
    """

    __slots__ = ("_down", "_up", "value")

    def __init__(self, share: float, initial: float) -> None:
        self.value = initial
        self._up = math.exp(QUANTILE_STEP * share)
        self._down = math.exp(-QUANTILE_STEP * (1.0 - share))

    def add(self, sample: float) -> None:
        self.value *= self._up if sample > self.value else self._down


class Window:
    """Quantiles of the last samples: follows a change within as many, up or down.

    Starts as `prior` samples of the initial value.
    """

    __slots__ = ("_length", "_samples", "_sorted")

    def __init__(self, initial: float, length: int, prior: int) -> None:
        self._length = length
        self._samples = deque([initial] * prior)
        self._sorted = [initial] * prior

    def add(self, sample: float) -> None:
        samples, ordered = self._samples, self._sorted
        samples.append(sample)
        if len(samples) > self._length:
            del ordered[bisect_left(ordered, samples.popleft())]
        insort(ordered, sample)

    def quantile(self, share: float) -> float:
        """The sample that this share of them does not exceed; share below 1."""
        ordered = self._sorted
        return ordered[int(share * len(ordered))]


class RunningLine:
    """Exponentially weighted least squares of y = intercept + slope x, both at least zero."""

    __slots__ = ("_keep", "_x", "_xx", "_xy", "_y", "intercept", "slope")

    def __init__(self, intercept: float, slope: float, smoothing: float) -> None:
        self.intercept, self.slope = intercept, slope
        self._keep = 1.0 - smoothing
        self._x = self._y = self._xx = self._xy = 0.0

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x

    def add(self, x: float, y: float) -> None:
        share = 1.0 - self._keep
        if self._xx == 0.0:
            share = 1.0
        self._x += share * (x - self._x)
        self._y += share * (y - self._y)
        self._xx += share * (x * x - self._xx)
        self._xy += share * (x * y - self._xy)
        self._fit()

    def _fit(self) -> None:
        variance = self._xx - self._x * self._x
        if variance > MIN_VARIANCE * max(1.0, self._xx):
            self.slope = max(0.0, (self._xy - self._x * self._y) / variance)
        self.intercept = max(0.0, self._y - self.slope * self._x)


class DecayedRate:
    """Amount a second, over about the last `horizon_s`."""

    __slots__ = ("_amount", "_at_s", "_horizon_s", "_started_s")

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = horizon_s
        self._amount = 0.0
        self._at_s = 0.0
        self._started_s: float | None = None

    def add(self, amount: float, now_s: float) -> None:
        if self._started_s is None:
            self._started_s = self._at_s = now_s
        passed_s = now_s - self._at_s
        if passed_s > GRAIN_S:
            self._amount = self._decayed(now_s)
            self._at_s = now_s
        elif passed_s < -GRAIN_S:
            # The clock was set back: what is known is as of now.
            self._started_s += passed_s
            self._at_s = now_s
        self._amount += amount

    def per_s(self, now_s: float) -> float:
        """Zero before the first sample; a young estimate divides by its age instead of the horizon."""
        if self._started_s is None:
            return 0.0
        seen = 1.0 - math.exp(-max(now_s - self._started_s, 1.0) / self._horizon_s)
        return self._decayed(now_s) / (self._horizon_s * seen)

    def _decayed(self, now_s: float) -> float:
        passed_s = now_s - self._at_s
        return self._amount * math.exp(-passed_s / self._horizon_s) if passed_s > GRAIN_S else self._amount
