"""`Retry-After` as a promise: a client that was refused gets a time at which a place is kept for it.

Places are handed out one after the other at the rate at which the class is served, so those that return
find what they were told. A newcomer's prediction counts the places that fall due while it would wait, times
the share of clients that have come back so far.
"""

from __future__ import annotations

from collections import deque

from app.flow.estimate import RunningMean

# Until clients have shown what they do: OpenAI's client retries twice.
INITIAL_RETURN_SHARE = 0.5
RETURN_SMOOTHING = 0.02


class PromiseBook:
    """Times promised to the tenants of one class, in order of time."""

    def __init__(self, grace_s: float, max_promises: int) -> None:
        self._grace_s = grace_s
        self._max_promises = max_promises
        self._due: deque[tuple[float, str]] = deque()
        self._by_tenant: dict[str, deque[float]] = {}
        self._open = 0
        self._last_s = 0.0
        self._returns = RunningMean(INITIAL_RETURN_SHARE, RETURN_SMOOTHING, prior=10)

    def __len__(self) -> int:
        return self._open

    def offer_s(self, earliest_s: float, rate_per_s: float) -> float:
        """The next free time from `earliest_s` on."""
        return max(earliest_s, self._last_s + self._returns.value / rate_per_s)

    def make(self, tenant: str, due_s: float) -> bool:
        """False when the book is full."""
        if len(self._due) >= self._max_promises:
            return False
        self._last_s = max(self._last_s, due_s)
        self._due.append((due_s, tenant))
        self._by_tenant.setdefault(tenant, deque()).append(due_s)
        self._open += 1
        return True

    def redeem(self, tenant: str, now_s: float) -> bool:
        """Whether a place is kept for the tenant about now; it is used up."""
        self._expire(now_s)
        due = self._by_tenant.get(tenant)
        if due is None or due[0] - self._grace_s > now_s:
            return False
        self._take(tenant, due)
        self._returns.add(1.0)
        return True

    def ahead(self, within_s: float, now_s: float) -> float:
        """Returns to expect in the next `within_s`, assuming that they are spread evenly."""
        self._expire(now_s)
        if not self._open:
            return 0.0
        span_s = max(self._last_s - now_s, self._grace_s)
        return self._open * self._returns.value * min(1.0, within_s / span_s)

    def _expire(self, now_s: float) -> None:
        while self._due and self._due[0][0] + self._grace_s < now_s:
            due_s, tenant = self._due.popleft()
            kept = self._by_tenant.get(tenant)
            if kept is not None and kept[0] <= due_s:
                self._take(tenant, kept)
                self._returns.add(0.0)

    def _take(self, tenant: str, due: deque[float]) -> None:
        due.popleft()
        self._open -= 1
        if not due:
            del self._by_tenant[tenant]
