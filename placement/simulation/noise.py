"""What the plain model leaves out: steps and engines that are not alike, stops, and words that are under way.

The figures are of the order of engines that share a machine's processors; they are assumed, not fitted.
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
    # By how much of itself an engine's own slowness changes with a step, and how much of it fades away: what
    # is left wanders by about a tenth.
    drift_share: float = 0.01
    fading_share: float = 0.005
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
        self._slowness += draw.gauss(0.0, noise.drift_share) - noise.fading_share * self._slowness
        step_s *= math.exp(self._slowness) * max(0.5, draw.gauss(1.0, noise.jitter_share))
        stops = draw.random() < noise.stops_per_s * step_s
        return step_s + draw.expovariate(1.0 / noise.stop_s) if stops else step_s
