"""Which gateways are there: what a dead one has left in the queue would take places that nobody uses."""

from __future__ import annotations

# A gateway says this often that it lives.
ATTEND_INTERVAL_S = 1.0


class Attendance:
    """When each gateway was last heard of. A name that is empty belongs to a caller that is no gateway."""

    def __init__(self, absent_after_s: float) -> None:
        self._absent_after_s = absent_after_s
        self._seen_s: dict[str, float] = {}

    def seen(self, gateway_id: str, now_s: float) -> None:
        if gateway_id:
            self._seen_s[gateway_id] = now_s

    def leave(self, now_s: float) -> frozenset[str]:
        """Gateways that have become absent since the last call; they are forgotten."""
        absent = frozenset(id_ for id_, at_s in self._seen_s.items() if now_s - at_s > self._absent_after_s)
        for gateway_id in absent:
            del self._seen_s[gateway_id]
        return absent
