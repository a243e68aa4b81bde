"""May this ticket enter the queue? What its tenant may not, what nobody can serve, what would come too late.

From the certain to the estimated: the tenant's rates and caps, no engine, the deadline. The queue's own
bounds are the controller's. A refusal charges nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from app.flow.classes import deadline_s
from app.flow.config import ClassPolicy, FlowConfig, Limits
from app.flow.doors import Doors
from app.flow.fairness import TenantFlow
from app.flow.outcome import Outcome
from app.flow.predictor import Predictor
from app.flow.promises import PromiseBook
from app.flow.queue import Entry
from app.flow.replicas import ReplicaPool
from app.flow.route import Choice, Router
from app.flow.tenants import Account
from app.flow.ticket import Refused, Ticket

# OpenAI's client ignores a longer hint.
MAX_RETRY_AFTER_S = 120
# An engine takes about this long to come back (17 to 100 s measured).
NO_ENGINE_RETRY_S = 30.0
# Spread of hints without a promise, so that the refused do not return together.
JITTER_SHARE = 0.1


def _key(ticket: Ticket) -> tuple[str, str]:
    return ticket.tenant, ticket.fingerprint


class Gate:
    """The checks on arrival."""

    def __init__(
        self,
        limits: Limits,
        config: FlowConfig,
        predictor: Predictor,
        pool: ReplicaPool,
        router: Router,
        doors: Doors,
        uniform: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._config = config
        self._predictor = predictor
        self._pool = pool
        self._router = router
        self._doors = doors
        self._uniform = uniform
        self._promises = [PromiseBook(config.admission) for _ in config.classes]

    def no_engine(self, ticket: Ticket, queued: int, now_s: float) -> Refused | None:
        """None comes, or too many wait for the first one that does."""
        most = self._limits.max_queued_without_engine
        full = most is not None and queued >= most and not any(self._pool.usable(now_s))
        # Those that waited at a scheduler before this one come at once, and the engines are about to report.
        full = full and (bool(self._pool.starting) or not self._pool.young(now_s))
        if full or self._pool.without_engine(now_s):
            return self.without_engine(ticket.ticket_id, Outcome.REJECTED_NO_ENGINE, None, now_s)
        return None

    def over_limit(self, ticket: Ticket, account: Account, rank: int, now_s: float) -> Refused | None:
        """The tenant's rates and caps."""
        over = account.over_rate(self._predictor.rate_tokens(ticket, account), now_s)
        if over is not None:
            return self.refuse(ticket.ticket_id, over[0], over[1])
        outcome = account.over_cap(ticket)
        if outcome is not None:
            return self.refuse(ticket.ticket_id, outcome, self._predictor.drain_s(rank, now_s))
        return None

    def admit(self, entry: Entry, lane: TenantFlow, now_s: float) -> Refused | Choice | None:
        """Predict, then verify: refused, or the engine that it gets at once; None: it waits.

        The entry keeps what was predicted. Whoever was told to return now is let in without a second look, to
        the lane; so is, in the time that it has asked for, who was let in before and has lost its engine.
        """
        ticket, rank = entry.ticket, entry.rank
        policy, doors = self._config.classes[rank], self._doors
        waited_s = now_s - ticket.arrived_s
        placed = doors.arrived(entry, now_s)
        left_s = entry.budget_s - waited_s
        # Not `expires_s`: an idle engine gets even what takes longer than its promise.
        in_time = left_s >= 0.0 or not self._config.admission.enabled
        in_time = in_time and waited_s <= self._limits.max_queue_wait_s
        let_in = ticket.moved and waited_s <= deadline_s(policy, ticket)
        choice = doors.engine(entry, left_s, now_s) if placed and (in_time or let_in) else None
        if choice is not None:
            raw_s = choice.ttft_s
        else:
            raw_s = self._predictor.ttft_s(rank, entry.flow, ticket.prompt_tokens, now_s)
        # Of the engine's time alone, or of its class.
        kind = rank if choice is None else None
        median_s, high_s = self._predictor.corrected(kind, raw_s)
        entry.raw_ttft_s, entry.predicted_ttft_s = waited_s + raw_s, waited_s + median_s
        if let_in:
            if choice is None:
                self._to_lane(entry, lane)
            return choice
        book = self._promises[rank]
        if not self._config.admission.enabled or self._pool.idle or self._nothing_known():
            # It does not come back: else it would count as one who never did.
            book.redeem(_key(ticket), now_s)
            return choice
        # The wait that is added by those who were told to return in that time.
        kept_s = book.ahead(high_s, now_s)
        if kept_s:
            kept_s /= self._predictor.rate_per_s(rank, now_s)
        # While no queue stands nobody else wants the time: refused is who is more likely late than not.
        spare = choice is not None and (doors.standing.value_s <= 0.0 or doors.plenty())
        ttft_s = waited_s + (median_s if spare else high_s) + kept_s
        budget = entry.budget_s
        if not self._pool.ready:
            budget = min(budget, self._limits.max_queue_wait_s)
        late_s = ttft_s - budget
        if not placed:
            late_s = max(late_s, median_s - doors.wait_s(entry, budget))
        if ticket.deadline_s is not None or policy.deadline_s is not None:
            late_s = max(late_s, self._late_at_end_s(ticket, entry.account, policy, ttft_s))
        if late_s <= 0:
            if book.open:
                book.redeem(_key(ticket), now_s)
            return choice
        if not self._hopeless(entry):
            doors.denied(entry, now_s)
        self._predictor.refused(kind, raw_s)
        if book.redeem(_key(ticket), now_s):
            self._to_lane(entry, lane)
            return None
        if not self._pool.ready:
            return self.without_engine(ticket.ticket_id, Outcome.REJECTED_NO_ENGINE, median_s, now_s)
        return self.too_late(entry, Outcome.REJECTED_DEADLINE, late_s, median_s + kept_s, now_s)

    def set_back(self, span_s: float) -> None:
        """The clock was set, by less than nothing."""
        for book in self._promises:
            book.set_back(span_s)

    def _to_lane(self, entry: Entry, lane: TenantFlow) -> None:
        """Before all others, where its tenant's cap lets it run at all."""
        if not entry.account.at_cap:
            entry.flow = lane

    def refuse(self, ticket_id: str, outcome: Outcome, wait_s: float) -> Refused:
        """A refusal whose hint is the wait, plus jitter."""
        hint_s = wait_s * (1.0 + JITTER_SHARE * self._uniform())
        return Refused(ticket_id, outcome, min(MAX_RETRY_AFTER_S, max(1, math.ceil(hint_s))))

    def without_engine(
        self, ticket_id: str, outcome: Outcome, predicted_s: float | None, now_s: float
    ) -> Refused:
        """The hint is when the first that starts is expected, if one does."""
        wait_s = self._pool.first_start_s(now_s) if self._pool.starting else NO_ENGINE_RETRY_S
        refused = self.refuse(ticket_id, outcome, wait_s)
        return refused._replace(predicted_wait_s=predicted_s)

    def _nothing_known(self) -> bool:
        """No replica has been heard of yet, as after a restart: there is nothing to predict from."""
        return not self._pool.ready and not self._pool.starting

    def _late_at_end_s(self, ticket: Ticket, account: Account, policy: ClassPolicy, ttft_s: float) -> float:
        return self._predictor.finish_s(ticket, account, ttft_s) - deadline_s(policy, ticket)

    def _hopeless(self, entry: Entry) -> bool:
        """In a place of its own, on an engine that computes nothing but its prompt and knows as much of it as
        any, it would be late too."""
        if not self._pool.pace.learnt:
            return False
        ticket, policy = entry.ticket, self._config.classes[entry.rank]
        own_s = self._pool.prefill_s(ticket.prompt_tokens - self._router.cached(ticket))
        if own_s > entry.budget_s:
            return True
        if ticket.deadline_s is None and policy.deadline_s is None:
            return False
        return self._late_at_end_s(ticket, entry.account, policy, own_s) > 0.0

    def too_late(
        self, entry: Entry, outcome: Outcome, late_s: float, predicted_s: float | None, now_s: float
    ) -> Refused:
        """Name the time at which a place is kept: to whoever comes too early the same again, else the next
        that is free, where it can be kept and helps; else none."""
        ticket, book = entry.ticket, self._promises[entry.rank]
        key = _key(ticket)
        due_s = book.due_s(key, now_s)
        held = due_s is not None
        if due_s is None:
            due_s = book.offer_s(now_s + late_s, self._predictor.rate_per_s(entry.rank, now_s))
        hint_s = max(1, math.ceil(due_s - now_s))
        kept = held or (
            self._config.admission.promises
            and hint_s <= MAX_RETRY_AFTER_S
            and not self._hopeless(entry)
            and book.make(key, now_s + hint_s)
        )
        return Refused(ticket.ticket_id, outcome, hint_s if kept else None, predicted_s, kept)
