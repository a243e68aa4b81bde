"""How long each phase of a start took."""

from __future__ import annotations

from collections.abc import Callable


class Phases:
    """Laps of a clock in seconds: `end` closes the phase that began with the last one."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at_s = clock()
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        now_s = self._clock()
        self.seconds[name] = now_s - self._at_s
        self._at_s = now_s

    def __str__(self) -> str:
        """`18.2 s (import 5.1, core 13.1)`"""
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.1f} s ({parts})"
