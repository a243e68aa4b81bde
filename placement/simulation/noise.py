"""What the plain model leaves out: steps and engines that are not alike, stops, and words that are under way.

How an engine's speed wanders was measured on a virtual machine that shares its processors (`python -m
benchmarks machine`): a core took 1.2 times as long as at its best on average, means of 0.1 s differed by 0.18
of that best (standard deviation), with a correlation of 0.8, 0.5 and 0.3 with the next, half a second and a
second later. The other figures are assumed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Noise:
    """How far from the plain model; shares are standard deviations, times are means."""

    # Of one step's length, for itself.
    jitter_share: float = 0.05
    # Of an engine's own slowness, and for how long it stays what it is.
    wander_share: float = 0.15
    wander_s: float = 1.0
    # An engine stands still, as for its garbage: this often, for this long.
    stops_per_s: float = 0.02
    stop_s: float = 0.1
    # A request is on its way to its engine, and word of first tokens and ends is on its way back.
    send_s: float = 0.005
    word_s: float = 0.005


class NoisyPace:
    """One engine's steps."""

    def __init__(self, noise: Noise, seed: str) -> None:
        self._noise = noise
        self._random = random.Random(seed)
        # Logarithm of how many times as long as the model's its steps are.
        self._slowness = 0.0

    def step_s(self, step_s: float) -> float:
        """How long a step takes of which the model says `step_s`."""
        noise, draw = self._noise, self._random
        keeps = math.exp(-step_s / noise.wander_s)
        self._slowness *= keeps
        self._slowness += draw.gauss(0.0, noise.wander_share * math.sqrt(1.0 - keeps * keeps))
        step_s *= math.exp(self._slowness) * max(0.5, draw.gauss(1.0, noise.jitter_share))
        stops = draw.random() < noise.stops_per_s * step_s
        return step_s + draw.expovariate(1.0 / noise.stop_s) if stops else step_s
