"""How sure a median of a few measurements is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median

from app.flow.estimate import nearest_rank

RESAMPLES = 5000
# The tails that a 95 % interval leaves out.
TAIL = 0.025


def median_with_interval(values: Sequence[float], seed: int = 0) -> dict[str, float]:
    """The median with its 95 % percentile bootstrap interval (Efron, 1979). ValueError for no value.

    Of five values the interval is about their range: five can't say more.
    """
    if not values:
        raise ValueError("values: there is none")
    source = random.Random(seed)
    medians = [median(source.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return {
        "median": median(values),
        "low": nearest_rank(medians, TAIL),
        "high": nearest_rank(medians, 1 - TAIL),
    }
