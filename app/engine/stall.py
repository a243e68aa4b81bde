"""Tells an engine that is busy from one that has stopped: time is an argument."""

from __future__ import annotations


class StallWatch:
    """An engine with unfinished requests makes steps, however slow; none for `stall_s`: it has stopped."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._steps = -1
        self._since_s = 0.0

    def stalled(self, unfinished: bool, steps: int, now_s: float) -> bool:
        """`steps` made since the start. Call it more often than once in `stall_s`."""
        if not unfinished or steps != self._steps:
            self._steps, self._since_s = steps, now_s
        return now_s - self._since_s > self._stall_s
