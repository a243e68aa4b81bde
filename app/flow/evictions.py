"""Out of the queue without an engine: whose time is over, and what it is told."""

from __future__ import annotations

from app.flow.config import Limits
from app.flow.endings import Endings
from app.flow.gate import Gate
from app.flow.outcome import Outcome
from app.flow.predictor import Predictor
from app.flow.queue import Entry, FlowQueue
from app.flow.replicas import ReplicaPool
from app.flow.tenants import Tenants
from app.flow.ticket import Action, Refused, Ticket


class Evictions:
    """Each refusal is counted as its ticket's end."""

    def __init__(
        self,
        limits: Limits,
        queue: FlowQueue,
        pool: ReplicaPool,
        tenants: Tenants,
        predictor: Predictor,
        gate: Gate,
        endings: Endings,
    ) -> None:
        self._limits = limits
        self._queue = queue
        self._pool = pool
        self._tenants = tenants
        self._predictor = predictor
        self._gate = gate
        self._endings = endings

    def count(self, refused: Refused, ticket: Ticket, rank: int, now_s: float) -> Refused:
        self._endings.without_lease(refused.outcome, ticket, rank, now_s)
        return refused

    def refuse(self, entry: Entry, outcome: Outcome, now_s: float) -> Refused:
        """It is in the queue no more, or never was."""
        drain_s = self._predictor.drain_s(entry.rank, now_s)
        if outcome in (Outcome.EVICTED_DEADLINE, Outcome.EVICTED_TIMEOUT):
            refused = self._gate.too_late(entry, outcome, drain_s, None, now_s)
        elif outcome is Outcome.EVICTED_NO_ENGINE:
            refused = self._gate.without_engine(entry.ticket.ticket_id, outcome, None, now_s)
        else:
            refused = self._gate.refuse(entry.ticket.ticket_id, outcome, drain_s)
        return self.count(refused, entry.ticket, entry.rank, now_s)

    def leave(self, entry: Entry, now_s: float) -> None:
        """A ticket that never reached an engine goes: give back what it took."""
        self._queue.remove(entry)
        self._tenants.release_bytes(entry.account, entry.ticket)
        entry.account.return_rate(entry.rate_tokens, now_s)

    def evict(self, entry: Entry, outcome: Outcome, now_s: float) -> Refused:
        self.leave(entry, now_s)
        return self.refuse(entry, outcome, now_s)

    def all(self, outcome: Outcome, now_s: float) -> list[Action]:
        return [self.evict(entry, outcome, now_s) for entry in list(self._queue)]

    def without_engine(self, now_s: float) -> list[Action]:
        """None is there, and none comes."""
        if not self._pool.without_engine(now_s):
            return []
        return self.all(Outcome.EVICTED_NO_ENGINE, now_s)

    def before_start(self, now_s: float) -> list[Action]:
        """Where the last engine has gone and another starts: who can't wait for that."""
        if self._pool.ready or self._pool.young(now_s):
            return []
        start_s = now_s + self._pool.first_start_s(now_s)
        hopeless = [entry for entry in self._queue if entry.expires_s < start_s]
        return [self.evict(entry, Outcome.EVICTED_NO_ENGINE, now_s) for entry in hopeless]

    def late(self, now_s: float) -> list[Action]:
        """Those that may not go to an engine any more."""
        actions: list[Action] = []
        for entry in self._queue.expired(now_s):
            overdue = now_s - entry.ticket.arrived_s > self._limits.max_queue_wait_s
            if not self._pool.ready:
                outcome = Outcome.EVICTED_NO_ENGINE
            else:
                outcome = Outcome.EVICTED_TIMEOUT if overdue else Outcome.EVICTED_DEADLINE
            actions.append(self.evict(entry, outcome, now_s))
        return actions
