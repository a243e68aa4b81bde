"""How many engines a queue asks for."""

from __future__ import annotations

import math


def desired_replicas(queued: float | None, replicas: int, target_queue_depth: float) -> int:
    """Up in proportion to the queue, down one at a time once it is empty; hold without data.

    `target_queue_depth`: queued requests a replica that are tolerated.
    """
    if queued is None:
        return replicas
    if queued > replicas * target_queue_depth:
        return math.ceil(queued / target_queue_depth)
    return replicas if queued > 0 else replicas - 1
