"""Who runs next, and where: events in, actions out, time as an argument.

Rules
- A ticket is in one of three places: the queue, a lease, or ended; it ends with exactly one outcome.
- A lease is granted only by a replica that is fresh, not draining, and below its limit.
- While a place is free, nothing waits; while no replica can take a lease, nothing waits either.
- A silent replica gets no leases but keeps its own until they expire; one that is gone never comes back.
- A controller younger than `replica_ttl_s` has yet to hear of its replicas: tickets wait for them.
- A lease lives while its replica reports it; one that no report has named for `lease_ttl_s` has expired.
- A full queue refuses the least urgent: the newcomer, unless it outranks the last in the queue.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.flow.outcome import Outcome
from app.flow.queue import PriorityQueue
from app.flow.ticket import Action, Granted, Lease, Refused, ReplicaReport, Ticket

# OpenAI's client ignores a longer hint.
MAX_RETRY_AFTER_S = 120
# Until a lease has ended there is no rate to predict from.
DEFAULT_SERVICE_S = 1.0
# Serve needs about this long to tell everyone that a replica has started or is stopping.
UNROUTABLE_BAR_S = 1.0
# Longer than a request runs: a lease that has ended here is not named again after such a silence.
REPLICA_MEMORY_S = 3600.0
# Weight of the newest sample in the running mean of service times.
SERVICE_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the flow; times in seconds."""

    max_queued: int
    max_queue_wait_s: float
    requests_per_replica: int
    lease_ttl_s: float
    replica_ttl_s: float


@dataclass(slots=True)
class _Held:
    """A lease and when its replica last named it (at first: when it was granted)."""

    lease: Lease
    granted_s: float
    seen_s: float


@dataclass(slots=True)
class _Replica:
    report: ReplicaReport
    seen_s: float
    in_flight: set[str] = field(default_factory=set)
    barred_until_s: float = -math.inf
    # A report that was under way when the replica ended must not bring it back.
    gone: bool = False

    @property
    def barred(self) -> bool:
        return self.seen_s < self.barred_until_s


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the outside may know: for metrics, autoscaling and readiness."""

    queued: int
    in_flight: int
    replicas_ready: int
    in_flight_by_replica: dict[str, int]
    ended: dict[Outcome, int]


class FlowController:
    """The one owner of the queue and of all leases. Not safe for threads: one writer."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queue = PriorityQueue(limits.max_queued)
        self._leases: dict[str, _Held] = {}
        self._replicas: dict[str, _Replica] = {}
        self._ended: Counter[Outcome] = Counter()
        self._service_s = DEFAULT_SERVICE_S
        self._draining = False
        # Time of the first event.
        self._born_s: float | None = None

    def submit(self, ticket: Ticket, now_s: float) -> list[Action]:
        """A new ticket, or one that is submitted again after this controller restarted."""
        held = self._leases.get(ticket.ticket_id)
        if held is not None:
            return [Granted(held.lease, held.granted_s - ticket.arrived_s)]
        if ticket.ticket_id in self._queue:
            return []
        outcome = self._rejection(now_s)
        if outcome is not None:
            return [self._refuse(ticket.ticket_id, outcome, now_s)]
        if not self._queue.full:
            self._queue.push(ticket)
            return self._dispatch(now_s)
        last = self._queue.last()
        if last.priority <= ticket.priority:
            return [self._refuse(ticket.ticket_id, Outcome.REJECTED_FULL, now_s)]
        self._queue.remove(last.ticket_id)
        self._queue.push(ticket)
        return [self._refuse(last.ticket_id, Outcome.EVICTED_PREEMPTED, now_s)]

    def close(self, ticket_id: str, outcome: Outcome, now_s: float) -> list[Action]:
        """The request ended, queued or running; an id that is not known any more changes nothing."""
        if ticket_id in self._queue:
            self._queue.remove(ticket_id)
            self._ended[outcome] += 1
            return []
        held = self._leases.get(ticket_id)
        if held is None:
            return []
        if outcome is Outcome.COMPLETED:
            served_s = now_s - held.granted_s
            self._service_s += SERVICE_SMOOTHING * (served_s - self._service_s)
        self._end_lease(held, outcome)
        return self._dispatch(now_s)

    def report(self, report: ReplicaReport, now_s: float) -> list[Action]:
        """A replica is there: register or refresh it, renew its leases, adopt those not known here.

        Ids of replicas are never used again: a report of one that is gone came late and revives nothing.
        """
        replica = self._replicas.get(report.replica_id)
        if replica is None:
            replica = self._replicas[report.replica_id] = _Replica(report, now_s)
            self._adopt(replica, now_s)
        replica.report, replica.seen_s = report, now_s
        for ticket_id in report.live_leases & replica.in_flight:
            self._leases[ticket_id].seen_s = now_s
        return self._dispatch(now_s)

    def replica_gone(self, replica_id: str, now_s: float) -> list[Action]:
        """The replica died or was stopped: its leases end as failed, the queue waits for the others."""
        replica = self._replicas.get(replica_id)
        if replica is None:
            return []
        replica.gone = True
        for ticket_id in sorted(replica.in_flight):
            self._end_lease(self._leases[ticket_id], Outcome.FAILED)
        return self._evict_without_engine(now_s)

    def replica_unroutable(self, replica_id: str, now_s: float) -> None:
        """A call could not reach the replica: no leases until it has reported again, a moment later.

        It may be starting or stopping in Serve's view, or dead; until it is silent for `replica_ttl_s` the
        queue waits for it.
        """
        replica = self._replicas.get(replica_id)
        if replica is not None:
            replica.barred_until_s = now_s + UNROUTABLE_BAR_S

    def tick(self, now_s: float) -> list[Action]:
        """Let time pass: expire what is overdue. Call it several times a second."""
        self._forget_replicas(now_s)
        for held in [h for h in self._leases.values() if now_s - h.seen_s > self._limits.lease_ttl_s]:
            self._end_lease(held, Outcome.LEASE_EXPIRED)
        actions: list[Action] = []
        overdue = [t for t in self._queue if now_s - t.arrived_s > self._limits.max_queue_wait_s]
        for ticket in overdue:
            self._queue.remove(ticket.ticket_id)
            actions.append(self._refuse(ticket.ticket_id, Outcome.EVICTED_TIMEOUT, now_s))
        return actions + self._dispatch(now_s) + self._evict_without_engine(now_s)

    def drain(self, now_s: float) -> list[Action]:
        """Refuse all that waits and all that comes; what runs goes on."""
        self._draining = True
        return self._evict_all(Outcome.EVICTED_DRAINING, now_s)

    def snapshot(self, now_s: float) -> Snapshot:
        return Snapshot(
            queued=len(self._queue),
            in_flight=len(self._leases),
            replicas_ready=sum(
                self._usable(replica, now_s) and not replica.barred for replica in self._replicas.values()
            ),
            in_flight_by_replica={
                id_: len(replica.in_flight)
                for id_, replica in self._replicas.items()
                if not replica.gone and (self._fresh(replica, now_s) or replica.in_flight)
            },
            ended=dict(self._ended),
        )

    def _adopt(self, replica: _Replica, now_s: float) -> None:
        """Take over what a replica runs, at its first report only: a later one may name a lease that was
        closed while the report was under way."""
        for ticket_id in replica.report.live_leases - self._leases.keys():
            if ticket_id not in self._queue:
                self._hold(Lease(ticket_id, replica.report.replica_id), replica, now_s)

    def _hold(self, lease: Lease, replica: _Replica, now_s: float) -> None:
        self._leases[lease.ticket_id] = _Held(lease, now_s, now_s)
        replica.in_flight.add(lease.ticket_id)

    def _rejection(self, now_s: float) -> Outcome | None:
        if self._draining:
            return Outcome.REJECTED_DRAINING
        return Outcome.REJECTED_NO_ENGINE if self._without_engine(now_s) else None

    def _without_engine(self, now_s: float) -> bool:
        """True when no replica can take a lease, and there was time to hear of one."""
        if self._born_s is None:
            self._born_s = now_s
        return self._usable_replicas(now_s) == 0 and (
            bool(self._replicas) or now_s - self._born_s > self._limits.replica_ttl_s
        )

    def _usable_replicas(self, now_s: float) -> int:
        return sum(self._usable(replica, now_s) for replica in self._replicas.values())

    def _fresh(self, replica: _Replica, now_s: float) -> bool:
        return now_s - replica.seen_s <= self._limits.replica_ttl_s

    def _usable(self, replica: _Replica, now_s: float) -> bool:
        return self._fresh(replica, now_s) and not replica.report.draining and not replica.gone

    def _dispatch(self, now_s: float) -> list[Action]:
        actions: list[Action] = []
        while self._queue and (replica := self._freest(now_s)) is not None:
            ticket = self._queue.pop()
            lease = Lease(ticket.ticket_id, replica.report.replica_id)
            self._hold(lease, replica, now_s)
            actions.append(Granted(lease, now_s - ticket.arrived_s))
        return actions

    def _freest(self, now_s: float) -> _Replica | None:
        """The usable replica with the fewest leases, if it has a place left."""
        open_: Iterator[_Replica] = (
            r for r in self._replicas.values() if self._usable(r, now_s) and not r.barred
        )
        best = min(open_, key=lambda r: (len(r.in_flight), r.report.replica_id), default=None)
        if best is None or len(best.in_flight) >= self._limits.requests_per_replica:
            return None
        return best

    def _end_lease(self, held: _Held, outcome: Outcome) -> None:
        del self._leases[held.lease.ticket_id]
        self._replicas[held.lease.replica_id].in_flight.discard(held.lease.ticket_id)
        self._ended[outcome] += 1

    def _evict_without_engine(self, now_s: float) -> list[Action]:
        return self._evict_all(Outcome.EVICTED_NO_ENGINE, now_s) if self._without_engine(now_s) else []

    def _forget_replicas(self, now_s: float) -> None:
        """Replicas that are gone or silent for long; their leases have ended or expired."""
        for replica_id, replica in list(self._replicas.items()):
            if not replica.in_flight and now_s - replica.seen_s > REPLICA_MEMORY_S:
                del self._replicas[replica_id]

    def _evict_all(self, outcome: Outcome, now_s: float) -> list[Action]:
        return [self._refuse(self._queue.pop().ticket_id, outcome, now_s) for _ in range(len(self._queue))]

    def _refuse(self, ticket_id: str, outcome: Outcome, now_s: float) -> Refused:
        self._ended[outcome] += 1
        return Refused(ticket_id, outcome, self._retry_after_s(now_s))

    def _retry_after_s(self, now_s: float) -> int:
        """Predicted time until a place in the queue is free: those ahead over the rate of release."""
        places = max(1, self._usable_replicas(now_s) * self._limits.requests_per_replica)
        drain_s = self._service_s * (len(self._queue) + 1) / places
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(drain_s)))
