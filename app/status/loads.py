"""From what ranks say of themselves to shares: a clock that counts on needs two looks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.status.view import RankLoad


class RankMeter:
    """Remembers the last look; a rank that is seen for the first time has no share yet."""

    def __init__(self) -> None:
        self._at_s = 0.0
        self._busy_s: dict[tuple[str, int], float] = {}

    def read(self, states: Iterable[Mapping[str, Any]], now_s: float) -> tuple[RankLoad, ...]:
        """`states` as the ranks give them (app/engine/ranks.py), each with its replica."""
        states = list(states)
        loads = tuple(self._loads(states, now_s - self._at_s))
        self._at_s = now_s
        self._busy_s = {(one["replica"], one["rank"]): one["busy_s"] for one in states if "busy_s" in one}
        return loads

    def _loads(self, states: list[Mapping[str, Any]], elapsed_s: float) -> Iterator[RankLoad]:
        for one in states:
            busy = one.get("utilisation")
            before_s = self._busy_s.get((one["replica"], one["rank"]))
            if before_s is not None and elapsed_s > 0 and "busy_s" in one:
                busy = min(1.0, max(0.0, (one["busy_s"] - before_s) / elapsed_s))
            yield RankLoad(
                one["replica"], one["rank"], one["device"], one["memory_bytes"], one["device_bytes"], busy
            )
