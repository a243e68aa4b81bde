"""`Retry-After` as a promise: a refused client gets a time at which a place is kept for it.

Places are handed out one after the other at a share of the rate at which the class is served; no tenant
holds more than about its part of them. A client is known again by tenant and fingerprint (the gateway's
hash of the body: a retry repeats it). A newcomer's prediction counts the promises that fall due while it
would wait, times the share of clients that have come back so far.
"""

from __future__ import annotations

from collections import Counter, deque

from app.flow.config import AdmissionPolicy
from app.flow.estimate import RunningMean

# Until clients have shown what they do: OpenAI's client retries twice.
INITIAL_RETURN_SHARE = 0.5
RETURN_SMOOTHING = 0.02
# A tenant may hold this many promises beyond an equal part.
SPARE_PROMISES = 4
# Whatever the rate of a class: twice as many served those who return at the expense of newcomers (simulated:
# goodput 0.41 instead of 0.49).
MIN_APART_S = 1.0
Key = tuple[str, str]


class PromiseBook:
    """Times promised to the clients of one class, in order of time."""

    def __init__(self, policy: AdmissionPolicy) -> None:
        self._policy = policy
        self._due: deque[tuple[float, Key]] = deque()
        # When each client that has yet to return may do so.
        self.open: dict[Key, float] = {}
        self._by_tenant: Counter[str] = Counter()
        self._last_s = 0.0
        self._returns = RunningMean(INITIAL_RETURN_SHARE, RETURN_SMOOTHING, prior=10)

    def __len__(self) -> int:
        return len(self.open)

    def offer_s(self, earliest_s: float, rate_per_s: float) -> float:
        """The next free time from `earliest_s` on."""
        apart_s = max(MIN_APART_S, 1.0 / (rate_per_s * self._policy.promise_share))
        return max(earliest_s, self._last_s + apart_s)

    def make(self, key: Key, due_s: float) -> bool:
        """False when the book is full, the tenant has its part, or the client holds a promise."""
        tenant = key[0]
        part = len(self.open) / max(1, len(self._by_tenant)) + SPARE_PROMISES
        if len(self._due) >= self._policy.max_promises or self._by_tenant[tenant] >= part:
            return False
        if key in self.open:
            return False
        self._last_s = max(self._last_s, due_s)
        self._due.append((due_s, key))
        self.open[key] = due_s
        self._by_tenant[tenant] += 1
        return True

    def set_back(self, span_s: float) -> None:
        """The clock was set, by less than nothing: clients were told for how long to wait, not until when."""
        self._last_s += span_s
        self._due = deque((due_s + span_s, key) for due_s, key in self._due)
        for key in self.open:
            self.open[key] += span_s

    def due_s(self, key: Key, now_s: float) -> float | None:
        """The time that this client was told; None: it holds no promise."""
        self._expire(now_s)
        return self.open.get(key)

    def redeem(self, key: Key, now_s: float) -> bool:
        """Whether a place is kept for this client about now; it is used up."""
        self._expire(now_s)
        due_s = self.open.get(key)
        if due_s is None or due_s - self._policy.promise_early_s > now_s:
            return False
        self._take(key)
        self._returns.add(1.0)
        return True

    def ahead(self, within_s: float, now_s: float) -> float:
        """Returns to expect in the next `within_s`, assuming that they are spread evenly."""
        if not self._due:
            return 0.0
        self._expire(now_s)
        span_s = max(self._last_s - now_s, self._policy.promise_late_s)
        return len(self.open) * self._returns.value * min(1.0, within_s / span_s)

    def _expire(self, now_s: float) -> None:
        while self._due and self._due[0][0] + self._policy.promise_late_s < now_s:
            due_s, key = self._due.popleft()
            if self.open.get(key) == due_s:
                self._take(key)
                self._returns.add(0.0)

    def _take(self, key: Key) -> None:
        del self.open[key]
        self._by_tenant[key[0]] -= 1
        if not self._by_tenant[key[0]]:
            del self._by_tenant[key[0]]
