"""Policies of other systems, from their published descriptions, behind the verbs of the flow controller.

FifoStaticCap     Ray Serve: one queue first come first served, `max_ongoing_requests` a replica,
                  `max_queued_requests` waiting, what exceeds them is refused with a fixed hint.
StrictPriorityTtl llm-d router flow control: bands of strict priority, first come first served within; a
                  replica takes a request while max(queue / 5, KV use / 0.8) < 1; 5,000 requests a band,
                  a time to live of 60 s.
RoundRobin        no queue of its own: each request goes to the next replica at once (vLLM behind a plain
                  load balancer); vLLM's own queue is unbounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from app.flow.outcome import Outcome
from app.flow.ticket import Action, Granted, Lease, Refused, ReplicaReport, Ticket, Usage

# Ray Serve's and SMG's hint does not depend on the load.
STATIC_RETRY_AFTER_S = 2


class _Peer:
    """Bookkeeping that all peers share: replicas, leases, one outcome a ticket."""

    def __init__(self) -> None:
        self._reports: dict[str, ReplicaReport] = {}
        self._seen_s: dict[str, float] = {}
        self._in_flight: dict[str, set[str]] = {}
        self._leases: dict[str, str] = {}
        self._queues: list[deque[Ticket]] = [deque()]
        self._queued: dict[str, Ticket] = {}

    def submit(self, ticket: Ticket, now_s: float) -> list[Action]:
        if not self._reports:
            return [self._refuse(ticket.ticket_id, Outcome.REJECTED_NO_ENGINE)]
        band = self._band(ticket)
        if self._full(band) and not (self._freest(now_s) and not self._queued):
            return [self._refuse(ticket.ticket_id, Outcome.REJECTED_FULL)]
        self._queues[band].append(ticket)
        self._queued[ticket.ticket_id] = ticket
        return self._dispatch(now_s)

    def close(
        self, ticket_id: str, outcome: Outcome, now_s: float, usage: Usage | None = None
    ) -> list[Action]:
        self._queued.pop(ticket_id, None)
        replica_id = self._leases.pop(ticket_id, None)
        if replica_id is None:
            return []
        self._in_flight[replica_id].discard(ticket_id)
        return self._dispatch(now_s)

    def report(self, report: ReplicaReport, now_s: float) -> list[Action]:
        self._reports[report.replica_id] = report
        self._seen_s[report.replica_id] = now_s
        self._in_flight.setdefault(report.replica_id, set())
        return self._dispatch(now_s)

    def replica_gone(self, replica_id: str, now_s: float) -> list[Action]:
        self._reports.pop(replica_id, None)
        for ticket_id in self._in_flight.pop(replica_id, set()):
            del self._leases[ticket_id]
        if self._reports:
            return []
        return [self._evict(ticket_id, Outcome.EVICTED_NO_ENGINE) for ticket_id in list(self._queued)]

    def first_tokens(self, news: Sequence[tuple[str, float]], now_s: float) -> list[Action]:
        return []

    def progress(self, ticket_id: str, output_tokens: int) -> None:
        pass

    def tick(self, now_s: float) -> list[Action]:
        return self._dispatch(now_s)

    def _band(self, ticket: Ticket) -> int:
        return 0

    def _full(self, band: int) -> bool:
        raise NotImplementedError

    def _freest(self, now_s: float) -> str | None:
        raise NotImplementedError

    def _expired(self, ticket: Ticket, now_s: float) -> bool:
        return False

    def _dispatch(self, now_s: float) -> list[Action]:
        actions: list[Action] = []
        for queue in self._queues:
            while queue:
                ticket = queue[0]
                if ticket.ticket_id not in self._queued:
                    queue.popleft()
                elif self._expired(ticket, now_s):
                    queue.popleft()
                    actions.append(self._evict(ticket.ticket_id, Outcome.EVICTED_TIMEOUT))
                elif (replica_id := self._freest(now_s)) is not None:
                    queue.popleft()
                    actions.append(self._grant(ticket, replica_id, now_s))
                else:
                    return actions
        return actions

    def _grant(self, ticket: Ticket, replica_id: str, now_s: float) -> Granted:
        del self._queued[ticket.ticket_id]
        self._leases[ticket.ticket_id] = replica_id
        self._in_flight[replica_id].add(ticket.ticket_id)
        return Granted(Lease(ticket.ticket_id, replica_id), now_s - ticket.arrived_s)

    def _evict(self, ticket_id: str, outcome: Outcome) -> Refused:
        del self._queued[ticket_id]
        return self._refuse(ticket_id, outcome)

    def _refuse(self, ticket_id: str, outcome: Outcome) -> Refused:
        return Refused(ticket_id, outcome, STATIC_RETRY_AFTER_S)

    def _least(self, has_place: Callable[[str], bool]) -> str | None:
        places = [id_ for id_, report in self._reports.items() if not report.draining and has_place(id_)]
        return min(places, key=lambda id_: (len(self._in_flight[id_]), id_), default=None)


class FifoStaticCap(_Peer):
    """Ray Serve."""

    def __init__(self, max_ongoing: int, max_queued: int) -> None:
        super().__init__()
        self._max_ongoing = max_ongoing
        self._max_queued = max_queued

    def _full(self, band: int) -> bool:
        return len(self._queued) >= self._max_queued

    def _freest(self, now_s: float) -> str | None:
        return self._least(lambda id_: len(self._in_flight[id_]) < self._max_ongoing)


class StrictPriorityTtl(_Peer):
    """llm-d's flow control with its defaults."""

    MAX_QUEUED_A_BAND = 5000
    TTL_S = 60.0
    QUEUE_DEPTH = 5
    KV_USE = 0.8

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self._bands = {name: band for band, name in enumerate(classes)}
        self._queues = [deque() for _ in classes]
        # Granted since the replica's last report, which does not know of them yet.
        self._unseen: dict[str, int] = {}

    def report(self, report: ReplicaReport, now_s: float) -> list[Action]:
        self._unseen[report.replica_id] = 0
        return super().report(report, now_s)

    def _band(self, ticket: Ticket) -> int:
        return self._bands.get(ticket.class_name, len(self._bands) - 1)

    def _full(self, band: int) -> bool:
        return len(self._queues[band]) >= self.MAX_QUEUED_A_BAND

    def _freest(self, now_s: float) -> str | None:
        return self._least(lambda id_: self._saturation(id_) < 1.0)

    def _saturation(self, replica_id: str) -> float:
        metrics = self._reports[replica_id].metrics
        if metrics is None:
            return 1.0
        waiting = metrics.waiting + self._unseen[replica_id]
        return max(waiting / self.QUEUE_DEPTH, metrics.kv_use / self.KV_USE)

    def _grant(self, ticket: Ticket, replica_id: str, now_s: float) -> Granted:
        self._unseen[replica_id] += 1
        return super()._grant(ticket, replica_id, now_s)

    def _expired(self, ticket: Ticket, now_s: float) -> bool:
        return now_s - ticket.arrived_s > self.TTL_S


class RoundRobin(_Peer):
    """A plain load balancer."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = 0

    def _full(self, band: int) -> bool:
        return False

    def _freest(self, now_s: float) -> str | None:
        usable = sorted(id_ for id_, report in self._reports.items() if not report.draining)
        return usable[self._turn % len(usable)] if usable else None

    def _grant(self, ticket: Ticket, replica_id: str, now_s: float) -> Granted:
        self._turn += 1
        return super()._grant(ticket, replica_id, now_s)
