"""How a request can end: a closed set that is metric label, HTTP status and retry hint in one table.

Rejected means never queued, evicted means it was. 400 and 413: it can never fit. 429: there is capacity
and it is contended. 503: there is none. The label is the machine-readable reason of a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a client sees of an outcome; `status` is None where the engine's answer stands."""

    label: str
    status: int | None
    reason: str
    # Whether the same request can succeed later.
    retryable: bool = True


class Outcome(Enum):
    """The one outcome of a ticket."""

    # Members are singletons; Enum would hash the name, in Python, at each look-up.
    __hash__ = object.__hash__

    COMPLETED = Verdict("completed", None, "The request was answered.")
    CANCELLED = Verdict("cancelled", None, "The client went away.")
    FAILED = Verdict("failed", None, "The engine failed while it answered.")
    LEASE_EXPIRED = Verdict("lease_expired", None, "Nobody used the lease in time.")
    REJECTED_TOO_LONG = Verdict(
        "rejected_too_long", 400, "The prompt and the output bound exceed what an engine holds.", False
    )
    REJECTED_TOO_LARGE = Verdict("rejected_too_large", 413, "The request has too many bytes.", False)
    REJECTED_REQUEST_RATE = Verdict(
        "rejected_request_rate", 429, "The tenant's requests a minute are used up."
    )
    REJECTED_TOKEN_RATE = Verdict("rejected_token_rate", 429, "The tenant's tokens a minute are used up.")
    REJECTED_TENANT_QUEUED = Verdict(
        "rejected_tenant_queued", 429, "The tenant has too many requests in the queue."
    )
    REJECTED_TENANT_BYTES = Verdict("rejected_tenant_bytes", 429, "The tenant has too many bytes in flight.")
    REJECTED_FULL = Verdict("rejected_full", 429, "The queue is full.")
    REJECTED_DEADLINE = Verdict("rejected_deadline", 429, "The deadline can't be met at present.")
    REJECTED_NO_ENGINE = Verdict("rejected_no_engine", 503, "No engine is ready.")
    REJECTED_DRAINING = Verdict("rejected_draining", 503, "The application is shutting down.")
    EVICTED_TIMEOUT = Verdict("evicted_timeout", 429, "The request waited in the queue for too long.")
    EVICTED_DEADLINE = Verdict("evicted_deadline", 429, "The deadline can't be met any more.")
    EVICTED_PREEMPTED = Verdict(
        "evicted_preempted", 429, "The queue is full and a more urgent request took this one's place."
    )
    EVICTED_NO_ENGINE = Verdict("evicted_no_engine", 503, "The last engine went away.")
    EVICTED_DRAINING = Verdict("evicted_draining", 503, "The application is shutting down.")

    @property
    def label(self) -> str:
        return self.value.label

    @property
    def status(self) -> int | None:
        return self.value.status

    @property
    def reason(self) -> str:
        return self.value.reason

    @property
    def retryable(self) -> bool:
        return self.value.retryable

    @property
    def refuses(self) -> bool:
        """True when the ticket never reached an engine, by the scheduler's decision."""
        return self.value.status is not None
