"""How a request can end: a closed set that is metric label, HTTP status and retry hint in one table.

Rejected means never queued, evicted means it was. 429: there is capacity and it is contended. 503: there is
none. What can never fit (400, 413) is refused before it becomes a ticket. The label is the machine-readable
reason of a refusal.
"""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """The one outcome of a ticket. Its value is its label.

    `status` and `reason` are what a client sees of it; `status` is None where the engine's answer stands.
    """

    label: str
    status: int | None
    reason: str

    def __new__(cls, label: str, status: int | None, reason: str) -> Outcome:
        member = object.__new__(cls)
        member._value_ = member.label = label
        member.status, member.reason = status, reason
        return member

    # Members are singletons; Enum would hash the name, in Python, at each look-up.
    __hash__ = object.__hash__

    COMPLETED = ("completed", None, "The request was answered.")
    CANCELLED = ("cancelled", None, "The client went away.")
    ENGINE_REFUSED = ("engine_refused", None, "The engine refused the request.")
    FAILED = ("failed", None, "The engine failed while it answered.")
    LEASE_EXPIRED = ("lease_expired", None, "Nobody used the lease in time.")
    REJECTED_REQUEST_RATE = ("rejected_request_rate", 429, "The tenant's requests a minute are used up.")
    REJECTED_TOKEN_RATE = ("rejected_token_rate", 429, "The tenant's tokens a minute are used up.")
    REJECTED_TENANT_QUEUED = ("rejected_tenant_queued", 429, "The tenant has too many requests in the queue.")
    REJECTED_TENANT_BYTES = ("rejected_tenant_bytes", 429, "The tenant has too many bytes in flight.")
    REJECTED_FULL = ("rejected_full", 429, "The queue is full.")
    REJECTED_DEADLINE = ("rejected_deadline", 429, "The deadline can't be met at present.")
    REJECTED_NO_ENGINE = ("rejected_no_engine", 503, "No engine is ready.")
    REJECTED_DRAINING = ("rejected_draining", 503, "The application is shutting down.")
    EVICTED_TIMEOUT = ("evicted_timeout", 429, "The request waited in the queue for too long.")
    EVICTED_DEADLINE = ("evicted_deadline", 429, "The deadline can't be met any more.")
    EVICTED_PREEMPTED = (
        "evicted_preempted",
        429,
        "The queue is full and a more urgent request took this one's place.",
    )
    EVICTED_NO_ENGINE = ("evicted_no_engine", 503, "The last engine went away.")
    EVICTED_DRAINING = ("evicted_draining", 503, "The application is shutting down.")

    @property
    def refuses(self) -> bool:
        """True when the ticket never reached an engine, by the scheduler's decision."""
        return self.status is not None
