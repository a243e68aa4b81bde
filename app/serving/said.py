"""How many engines each application's scheduler has asked for last: Serve's controller holds the one copy.

A module of its own: Serve pickles a policy's module by value, so what that keeps each policy has alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Said(NamedTuple):
    """Seconds since the epoch."""

    replicas: int
    at_s: float
    # When the scheduler's replica that says so has followed another; never, for the first.
    followed_s: float = -math.inf


# By application. Written by its scheduler's policy, read by its engines'.
by_application: dict[str, Said] = {}
