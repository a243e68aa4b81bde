"""What goes into the queue and what comes out of it: values, without behaviour."""

from __future__ import annotations

from dataclasses import dataclass

from app.flow.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that asks for a place on an engine."""

    ticket_id: str
    # Lower is more urgent, as in vLLM.
    priority: int
    # The first arrival: a ticket that is submitted again keeps its age. Seconds since the epoch.
    arrived_s: float


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run one request on one replica; it carries the ticket's id."""

    ticket_id: str
    replica_id: str


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What an engine replica says of itself, about once a second."""

    replica_id: str
    # Leases whose request is in the engine or about to be.
    live_leases: frozenset[str]
    # A draining replica keeps its leases and gets no new ones.
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Granted:
    """The ticket left the queue for an engine."""

    lease: Lease
    queue_wait_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """The ticket gets no engine."""

    ticket_id: str
    outcome: Outcome
    # When a place is expected; whole seconds, at least one.
    retry_after_s: int


Action = Granted | Refused
