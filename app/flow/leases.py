"""Leases that are held, what each was charged, and the correction of that charge as tokens come."""

from __future__ import annotations

from collections.abc import Set

from app.flow.config import FlowConfig
from app.flow.queue import Entry, FlowQueue
from app.flow.replicas import FIRST_BAR_S, Replica, ReplicaPool
from app.flow.route import Choice
from app.flow.ticket import Lease, Usage

# The close of a request may cross one report; two are a second or more.
MISSED_REPORTS = 2


class Held:
    """A lease and what is known of its request. An adopted lease has no entry: its ticket is not known."""

    __slots__ = (
        "answers",
        "cached_tokens",
        "cost",
        "credits",
        "engine_ttft_s",
        "entry",
        "expected_output",
        "first_token_s",
        "granted_s",
        "lease",
        "mark",
        "missed_reports",
        "output_tokens",
        "prefill_tokens",
        "replica",
        "seen_s",
        "tokens",
    )

    def __init__(self, lease: Lease, entry: Entry | None, replica: Replica, now_s: float) -> None:
        self.lease = lease
        self.entry = entry
        # It stays valid when the replica is gone.
        self.replica = replica
        self.granted_s = now_s
        # When its replica last named it.
        self.seen_s = now_s
        # Reports without it since then; None until one has named it.
        self.missed_reports: int | None = None
        self.first_token_s: float | None = None
        self.answers = 1 if entry is None else entry.ticket.answers
        self.output_tokens = 0
        self.expected_output = 0
        self.cached_tokens = 0
        # Charged to the tenant, reserved on the replica, still to be computed there.
        self.cost = 0.0
        self.tokens = 0
        self.prefill_tokens = 0
        # By how much it has made the credit of each class grow.
        self.credits: list[float] = []
        # By which the engine's clock knows its first token.
        self.mark = 0
        # Predicted at the grant, from the grant.
        self.engine_ttft_s = 0.0


class LeaseTable:
    """Every lease, by ticket; keeps replica, tenant and counter in step with it."""

    def __init__(self, config: FlowConfig, queue: FlowQueue, pool: ReplicaPool) -> None:
        self._weight = config.fairness.output_weight
        self._queue = queue
        self._pool = pool
        self._held: dict[str, Held] = {}
        # Leases that may be taken back, by class, oldest grant first.
        self.revocable: list[dict[str, Held]] = [{} for _ in config.classes]

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, ticket_id: str) -> Held:
        return self._held[ticket_id]

    def get(self, ticket_id: str) -> Held | None:
        return self._held.get(ticket_id)

    def adopt(self, lease: Lease, replica: Replica, tokens: int, now_s: float) -> None:
        """`tokens`: what it takes of the cache, as far as that is known."""
        held = self._held[lease.ticket_id] = Held(lease, None, replica, now_s)
        held.tokens = tokens
        self._pool.take(replica, lease.ticket_id, held.answers, tokens)

    def grant(self, entry: Entry, choice: Choice, expected_output: int, now_s: float) -> Held:
        ticket, replica, cached = entry.ticket, choice.replica, choice.cached
        lease = Lease(ticket.ticket_id, replica.report.replica_id)
        held = self._held[ticket.ticket_id] = Held(lease, entry, replica, now_s)
        held.expected_output, held.cached_tokens = expected_output, cached
        held.engine_ttft_s = choice.ttft_s
        held.prefill_tokens = ticket.prompt_tokens - cached
        held.tokens = held.prefill_tokens + expected_output
        held.mark = replica.clock.give(held.prefill_tokens, replica.running, now_s)
        self._pool.prefill_tokens += held.prefill_tokens
        self._pool.take(replica, ticket.ticket_id, held.answers, held.tokens)
        replica.limit.granted(ticket.prompt_tokens)
        held.cost = held.prefill_tokens + self._weight * expected_output
        self._queue.classes[entry.rank].order.charge(entry.payer, held.cost)
        held.credits = self._queue.served(entry.rank, held.cost, now_s)
        entry.account.running += held.answers
        # In the place of several answers there would be room for one of them again; and of several whole ones
        # the engine sees no first token.
        if ticket.revocable and ticket.answers == 1:
            self.revocable[entry.rank][ticket.ticket_id] = held
        return held

    def first_token(self, held: Held, now_s: float) -> None:
        held.first_token_s = now_s
        # As good as a report that names it.
        held.missed_reports = 0
        replica = held.replica
        replica.bar_s = FIRST_BAR_S
        replica.clock.first_token(held.mark, replica.running, now_s)
        self._prefilled(held)

    def progress(self, held: Held, output_tokens: int) -> None:
        """The output is this long by now: what exceeds the expectation is charged and reserved."""
        if output_tokens > 0:
            # So there was a first one, of which nobody may have told.
            self._prefilled(held)
        held.output_tokens = max(held.output_tokens, output_tokens)
        excess = held.output_tokens - held.expected_output
        if excess > 0 and held.entry is not None:
            held.expected_output += excess
            held.tokens += excess
            held.replica.tokens += excess
            self._charge(held, held.entry, self._weight * excess)

    def settle(self, held: Held, usage: Usage | None, *, ended_early: bool) -> None:
        """Replace the expected cost by the true one, as far as it is known."""
        if usage is not None:
            held.output_tokens = usage.output_tokens
        elif not ended_early:
            return
        if held.entry is not None:
            prompt = held.entry.ticket.prompt_tokens - held.cached_tokens
            self._charge(held, held.entry, prompt + self._weight * held.output_tokens - held.cost)

    def completed(self, held: Held, usage: Usage | None, now_s: float) -> None:
        """The engine has ended it: a step of it ended with its last token, or now, if nobody says when."""
        replica = held.replica
        if usage is None or usage.decode_s is None or held.first_token_s is None:
            replica.clock.ended(replica.running, now_s, told=False)
            return
        last_token_s = held.first_token_s + max(0.0, usage.decode_s)
        replica.clock.ended(replica.running, min(now_s, last_token_s))

    def end(self, held: Held) -> None:
        ticket_id = held.lease.ticket_id
        del self._held[ticket_id]
        if held.first_token_s is None:
            held.replica.clock.take_back(held.mark)
            self._prefilled(held)
        self._pool.release(held.replica, ticket_id, held.answers, held.tokens)
        if held.entry is not None:
            account = held.entry.account
            account.running -= held.answers
            if account.parked:
                account.unpark()

    def revoke(self, held: Held, entry: Entry) -> None:
        """Take the lease back; the tenant gets its whole charge back, and the classes their credit."""
        self._charge(held, entry, -held.cost)
        self._queue.taken_back(held.credits)
        self.end(held)

    def renew(self, replica: Replica, live: Set[str], now_s: float) -> list[Held]:
        """The leases that a report names live on. Returns those that have ended on the engine and that nobody
        has closed: their gateway is dead."""
        ended = []
        for ticket_id in replica.in_flight:
            held = self._held[ticket_id]
            if ticket_id in live:
                held.seen_s, held.missed_reports = now_s, 0
                # Nobody says when the first of several whole answers began.
                if held.prefill_tokens and held.answers > 1 and replica.clock.computed(held.mark):
                    self._prefilled(held)
            elif held.missed_reports is not None:
                held.missed_reports += 1
                if held.missed_reports >= MISSED_REPORTS:
                    ended.append(held)
        return sorted(ended, key=lambda held: held.lease.ticket_id)

    def unused_by(self, caller: str) -> list[str]:
        """Leases of a caller that no engine has named or answered under."""
        return [
            ticket_id
            for ticket_id, held in self._held.items()
            if held.missed_reports is None and held.entry is not None and held.entry.ticket.caller == caller
        ]

    def skip(self, span_s: float) -> None:
        """Nobody could be heard for so long."""
        for held in self._held.values():
            held.seen_s += span_s
            held.granted_s += span_s
            if span_s < 0.0:
                if held.first_token_s is not None:
                    held.first_token_s += span_s
                if held.entry is not None:
                    held.entry.set_back(span_s)

    def unseen_since(self, since_s: float) -> list[Held]:
        return [held for held in self._held.values() if held.seen_s < since_s]

    def _charge(self, held: Held, entry: Entry, cost: float) -> None:
        held.cost += cost
        self._queue.classes[entry.rank].order.charge(entry.payer, cost)

    def _prefilled(self, held: Held) -> None:
        if held.entry is not None:
            self.revocable[held.entry.rank].pop(held.lease.ticket_id, None)
        self._pool.prefill_tokens -= held.prefill_tokens
        held.prefill_tokens = 0
