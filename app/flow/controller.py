"""Who runs next, and where: events in, actions out, time as an argument.

Rules
- A ticket is in one of three places: the queue, a lease, or ended; it ends with exactly one outcome.
- A lease is granted only by a replica that is fresh, not draining, and below its limits.
- While the next ticket fits on a replica, in a place that its class need not leave to others, nothing waits
  but for an engine to compute the prompts that it has (a newcomer of a more urgent class would wait for all),
  or while a more urgent class is refused for want of places.
  A class that comes to be owed its share by a newcomer's lease gets it with the next event.
- Nothing that is too late for its promise goes to an engine, but for what had one and lost it.
- A refusal on arrival charges nothing; a lease charges its tenant at once and is corrected as tokens come.
- A silent replica gets no leases but keeps its own until they expire; one that is gone comes back only if it
  goes on reporting for long.
- A controller younger than `replica_ttl_s` has yet to hear of its replicas: tickets wait for them.
- A lease lives while its replica reports it: one that no report has named for `lease_ttl_s` has expired, and
  so has one that was named once and is missing in two reports.
- A full queue refuses the least urgent: the newcomer, unless it outranks the last in the queue, or a place is
  kept for it.
- An urgent ticket that would be late takes the place of a less urgent one that has no first token yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from app.flow.autoscale import Load
from app.flow.classes import ClassIndex, budget_s, deadline_s
from app.flow.config import FlowConfig, Limits
from app.flow.detail import Detail, take_detail
from app.flow.doors import Doors
from app.flow.endings import Ended, Endings
from app.flow.evictions import Evictions
from app.flow.gate import Gate
from app.flow.leases import Held, LeaseTable
from app.flow.lessons import Lessons
from app.flow.load import LoadMeter
from app.flow.outcome import Outcome
from app.flow.predictor import Predictor
from app.flow.preempt import at_risk, victims
from app.flow.queue import Entry, FlowQueue
from app.flow.replicas import Replica, ReplicaPool
from app.flow.route import SMALL_FLEET, Choice, Router
from app.flow.snapshot import Snapshot, take_snapshot
from app.flow.tenants import Account, Tenants, used_tokens
from app.flow.ticket import Action, Granted, Lease, RateLimit, Refused, ReplicaReport, Revoke, Ticket, Usage

__all__ = ["FlowController", "Limits", "Snapshot"]


# Room for prompts is found by the first event after this time, which is little against what prompts take.
LOOK_S = 0.005
# Of a budget: a prompt that takes less leaves nearly all of it.
LONG_PROMPT_SHARE = 0.1


def _always_half() -> float:
    return 0.5


class FlowController:
    """The one owner of the queue and of all leases. Not safe for threads: one writer.

    `uniform` gives numbers in [0, 1) for the choice of replicas and for jitter; a constant makes both
    deterministic. `on_end` hears of every ticket's end, once, before the actions that follow from it.
    """

    def __init__(
        self,
        limits: Limits,
        config: FlowConfig | None = None,
        uniform: Callable[[], float] = _always_half,
        on_end: Callable[[Ended], None] | None = None,
    ) -> None:
        config = config or FlowConfig()
        self._limits = limits
        self._config = config
        self._names = [policy.name for policy in config.classes]
        self._class_index = ClassIndex(config)
        self._queue = FlowQueue(config.classes, config.fairness)
        self._pool = ReplicaPool(limits, config)
        self._router = Router(config, self._pool, uniform)
        self._tenants = Tenants(config)
        self._leases = LeaseTable(config, self._queue, self._pool)
        self._predictor = Predictor(config, self._queue, self._pool)
        self._doors = Doors(config, self._queue, self._pool, self._router, self._predictor)
        self._gate = Gate(limits, config, self._predictor, self._pool, self._router, self._doors, uniform)
        self._endings = Endings(config, on_end)
        self._meter = LoadMeter(config, self._pool)
        self._lessons = Lessons(self._pool, self._leases, self._predictor, self._meter)
        self._evictions = Evictions(
            limits, self._queue, self._pool, self._tenants, self._predictor, self._gate, self._endings
        )
        self._draining = False
        # When room for prompts was last looked for.
        self._looked_s = -math.inf

    def submit(self, ticket: Ticket, now_s: float) -> list[Action]:
        """A new ticket, or one that is submitted again after this controller restarted."""
        held = self._leases.get(ticket.ticket_id)
        if held is not None:
            wait_s = held.granted_s - ticket.arrived_s
            return [Granted(held.lease, wait_s, self._class_of(held), again=True)]
        if ticket.ticket_id in self._queue:
            return []
        account = self._tenants.get(ticket.tenant, now_s)
        rank = self._class_index.of(ticket, account.policy)
        refused = self._turned_away(ticket, account, rank, now_s)
        if refused is not None:
            return [self._evictions.count(refused, ticket, rank, now_s)]
        order = self._queue.classes[rank].order
        budget = budget_s(self._config.classes[rank], ticket)
        expires_s = self._expires_s(ticket, rank, budget, now_s)
        entry = Entry(ticket, rank, account, order.flow(account), budget, expires_s)
        verdict = self._gate.admit(entry, order.lane, now_s)
        if isinstance(verdict, Refused):
            # For the autoscaler it is an answer that came so late.
            assert verdict.predicted_wait_s is not None
            uncached = ticket.prompt_tokens - self._router.cached(ticket)
            self._meter.first_token(rank, verdict.predicted_wait_s, uncached, now_s)
            return [self._evictions.count(verdict, ticket, rank, now_s)]
        if verdict is not None:
            self._enter(entry, now_s)
            expected = self._predictor.expected_output(entry)
            granted = self._lease(entry, verdict, expected, now_s)
            self._predict_placed(entry)
            # Who is owed a share by this gets it with the next event: in the same step of an engine it would
            # make the newcomer later than predicted.
            return [granted, *self._dispatch(now_s)] if self._queue.held else [granted]
        return self._wait(entry, now_s)

    def first_tokens(
        self, news: Sequence[tuple[str, float]], now_s: float, replica_id: str | None = None
    ) -> list[Action]:
        """Tickets whose first tokens are about to be sent by that replica (None: by whichever has them), and
        when those came. They win over revokes that are still under way, and over leases granted since."""
        freed = False
        for ticket_id, at_s in news:
            held = self._leases.get(ticket_id)
            if held is None:
                entry = self._queue.get(ticket_id)
                held = None if entry is None else self._reinstate(entry, now_s)
            elif replica_id is not None and replica_id != held.lease.replica_id:
                held = self._give_back(held, replica_id, now_s)
                freed = freed or held is not None
            if held is not None and held.first_token_s is None:
                self._lessons.first_token(held, at_s, now_s)
                self._leases.first_token(held, at_s)
        # The engines have computed prompts.
        return self._dispatch(now_s) if freed or self._queue.held else []

    def progress(self, ticket_id: str, output_tokens: int) -> None:
        """The output has this many tokens by now. Call it now and then, not for each token."""
        held = self._leases.get(ticket_id)
        if held is not None:
            self._leases.progress(held, output_tokens)

    def close(
        self, ticket_id: str, outcome: Outcome, now_s: float, usage: Usage | None = None
    ) -> list[Action]:
        """The request ended, queued or running; an id that is not known any more changes nothing."""
        held = self._leases.get(ticket_id)
        entry = self._queue.get(ticket_id) if held is None else None
        if entry is not None and usage is not None:
            held = self._reinstate(entry, now_s)
        if held is not None:
            self._lessons.end(held, outcome, usage, now_s)
            self._end_lease(held, outcome, usage, now_s)
            return self._dispatch(now_s)
        if entry is None:
            return []
        self._evictions.leave(entry, now_s)
        self._endings.without_lease(outcome, entry.ticket, entry.rank, now_s)
        # It may have been first and too large for any replica: the next one may fit.
        return self._dispatch(now_s)

    def report(self, report: ReplicaReport, now_s: float) -> list[Action]:
        """A replica is there: register or refresh it, renew its leases, adopt those not known here."""
        replica, new = self._pool.report(report, now_s)
        if new:
            self._adopt(replica, now_s)
        if report.metrics is not None:
            self._predictor.itl(report.metrics.running, report.metrics.itl_s)
        for held in self._leases.renew(replica, report.live_leases, now_s):
            self._end_lease(held, Outcome.LEASE_EXPIRED, None, now_s)
        return self._dispatch(now_s)

    def capacity_starting(self, replica_id: str, ready_s: float, now_s: float) -> None:
        """A replica is on its way and expected at `ready_s`: requests may wait for it."""
        self._pool.expect(replica_id, max(ready_s, now_s))

    def expects(self, replica_id: str) -> bool:
        """Whether it is on its way."""
        return replica_id in self._pool.starting

    def caller_gone(self, caller: str, now_s: float) -> list[Action]:
        """A process that has asked for leases is dead: what it has in the queue is closed, and so are leases
        that no engine has heard of. The others end with their requests, as the reports will say."""
        waiting = [entry.ticket.ticket_id for entry in self._queue if entry.ticket.caller == caller]
        unused = self._leases.unused_by(caller)
        actions: list[Action] = []
        for ticket_id in waiting + unused:
            actions += self.close(ticket_id, Outcome.CANCELLED, now_s)
        return actions

    def replica_gone(self, replica_id: str, now_s: float) -> list[Action]:
        """The replica died or was stopped: its leases end as failed, the queue waits for the others, or, who
        can, for one that starts."""
        replica = self._pool.gone(replica_id, now_s)
        self._router.forget(replica_id)
        for ticket_id in sorted(replica.in_flight if replica is not None else ()):
            self._end_lease(self._leases[ticket_id], Outcome.FAILED, None, now_s)
        actions = self._evictions.without_engine(now_s)
        if replica is None:
            return actions
        # Tenants at their caps have lost what they ran.
        return actions + self._evictions.before_start(now_s) + self._dispatch(now_s)

    def replica_unroutable(self, replica_id: str, now_s: float) -> None:
        """Calls can't reach the replica though it reports: it gets no leases for a moment."""
        self._pool.bar(replica_id, now_s)

    def tick(self, now_s: float) -> list[Action]:
        """Let time pass: expire what is overdue. Call it several times a second."""
        self._doors.standing.update(now_s, served=self._pool.ready > 0)
        for replica_id in self._pool.forget(now_s):
            self._router.forget(replica_id)
        self._pool.count(now_s)
        self._doors.keep_free(now_s)
        for held in self._leases.unseen_since(now_s - self._limits.lease_ttl_s):
            self._end_lease(held, Outcome.LEASE_EXPIRED, None, now_s)
        actions = self._dispatch(now_s)
        actions += self._evictions.without_engine(now_s)
        for rank in range(len(self._config.classes) - 1):
            actions += self._rescue_class(rank, now_s)
        for tenant in self._tenants.surplus(now_s):
            for queue in self._queue.classes:
                queue.order.forget(tenant)
        return actions

    def skip(self, span_s: float) -> None:
        """Nobody could be heard for so long: the process was frozen, or the clock was set (back: less than
        zero). It counts as nobody's silence."""
        self._pool.skip(span_s)
        self._leases.skip(span_s)
        if span_s < 0.0:
            self._queue.set_back(span_s)
            self._gate.set_back(span_s)

    def drain(self, now_s: float) -> list[Action]:
        """Refuse all that waits and all that comes; what runs goes on."""
        self._draining = True
        return self._evictions.all(Outcome.EVICTED_DRAINING, now_s)

    def rate_limits(self, tenant: str, now_s: float) -> tuple[RateLimit, RateLimit]:
        """Requests and tokens a minute, for OpenAI's `x-ratelimit-*` headers."""
        return self._tenants.get(tenant, now_s).rate_limits(now_s)

    def predicted_ttft_s(self, ticket_id: str) -> float | None:
        """What was predicted on arrival for a ticket that waits or runs; None when it is not known."""
        held = self._leases.get(ticket_id)
        entry = held.entry if held is not None else self._queue.get(ticket_id)
        return None if entry is None else entry.predicted_ttft_s

    def snapshot(self, now_s: float) -> Snapshot:
        last = len(self._config.classes) - 1
        drain_s = self._predictor.drain_s(last, now_s) if self._queue else 0.0
        return take_snapshot(self._queue, self._pool, len(self._leases), self._endings.counts, drain_s, now_s)

    def detail(self, max_tenants: int, now_s: float) -> Detail:
        """For a person who looks; costs time in proportion to queue and tenants."""
        return take_detail(
            self._queue, self._pool, self._router, self._tenants, self._predictor, max_tenants, now_s
        )

    def load(self, start_s: float, now_s: float) -> Load:
        """What the autoscaler needs to know; `start_s`: how long an engine takes to start."""
        return self._meter.load(self._queue, self._predictor, start_s, now_s)

    @property
    def ready(self) -> bool:
        """Some engine can take a lease, as of the last report or tick."""
        return self._pool.ready > 0

    def young(self, now_s: float) -> bool:
        """It has yet to hear of its engines."""
        return self._pool.young(now_s)

    def asleep(self, now_s: float, without: str = "") -> bool:
        """No engine, but that replica, is there and none comes."""
        return self._pool.asleep(now_s, without)

    def _predict_placed(self, entry: Entry) -> None:
        """It had a place at once: the prediction is that of its engine."""
        held = self._leases.get(entry.ticket.ticket_id)
        if held is None:
            return
        waited_s = held.granted_s - entry.ticket.arrived_s
        entry.placed, entry.raw_ttft_s = True, held.engine_ttft_s
        entry.predicted_ttft_s = waited_s + self._predictor.median_s(held.engine_ttft_s)

    # Entering and leaving the queue

    def _turned_away(self, ticket: Ticket, account: Account, rank: int, now_s: float) -> Refused | None:
        """Refused without a prediction; takes note of whoever is not."""
        gate = self._gate
        if self._draining:
            return gate.refuse(ticket.ticket_id, Outcome.REJECTED_DRAINING, 0.0)
        refused = (
            None if ticket.moved else gate.over_limit(ticket, account, rank, now_s)
        ) or self._over_bytes(ticket, rank, now_s)
        if refused is not None:
            return refused
        self._meter.arrived(rank, now_s)
        self._predictor.arrived(rank, now_s)
        return gate.no_engine(ticket, len(self._queue), now_s)

    def _wait(self, entry: Entry, now_s: float) -> list[Action]:
        """Into the queue, if there is room, and perhaps out of it again. For whom a place is kept one of its
        own class makes room, too."""
        kept = entry.flow is not entry.payer
        actions = self._make_room(entry.rank - 1 if kept else entry.rank, now_s)
        if actions is None:
            return [self._evictions.refuse(entry, Outcome.REJECTED_FULL, now_s)]
        self._enter(entry, now_s)
        actions += self._dispatch(now_s)
        if entry.queued:
            actions += self._rescue_class(entry.rank, now_s)
        if not entry.queued:
            self._predict_placed(entry)
        return actions

    def _over_bytes(self, ticket: Ticket, rank: int, now_s: float) -> Refused | None:
        if self._tenants.size_bytes + ticket.size_bytes <= self._limits.max_bytes:
            return None
        return self._gate.refuse(
            ticket.ticket_id, Outcome.REJECTED_FULL, self._predictor.drain_s(rank, now_s)
        )

    def _expires_s(self, ticket: Ticket, rank: int, budget: float, now_s: float) -> float:
        """The last moment to leave the queue: what the engine needs at least, once that is known, must still
        fit the promise."""
        longest_s = self._limits.max_queue_wait_s
        if ticket.moved:
            return min(now_s + longest_s, ticket.arrived_s + deadline_s(self._config.classes[rank], ticket))
        if self._config.admission.enabled:
            own_s = self._pool.alone_s(ticket.prompt_tokens)
            if own_s > LONG_PROMPT_SHARE * budget:
                # What an engine knows of it is worth looking for.
                own_s = self._pool.alone_s(ticket.prompt_tokens - self._router.cached(ticket))
            longest_s = min(longest_s, max(0.0, budget - own_s))
        return ticket.arrived_s + longest_s

    def _make_room(self, rank: int, now_s: float) -> list[Action] | None:
        """Evict the least urgent from a full queue; None when nothing is less urgent than `rank`."""
        if len(self._queue) < self._limits.max_queued:
            return []
        last = self._queue.least_urgent(rank)
        if last is None:
            return None
        return [self._evictions.evict(last, Outcome.EVICTED_PREEMPTED, now_s)]

    def _enter(self, entry: Entry, now_s: float) -> None:
        self._queue.push(entry)
        self._tenants.keep_bytes(entry.account, entry.ticket)
        entry.rate_tokens = self._predictor.rate_tokens(entry.ticket, entry.account)
        entry.account.take_rate(entry.ticket, entry.rate_tokens, now_s)

    # Leases

    def _dispatch(self, now_s: float) -> list[Action]:
        actions = self._evictions.late(now_s) if self._queue.any_expired(now_s) else []
        self._queue.blocked, self._router.kept = math.inf, None
        # The class for which an engine is kept; the one that fits nowhere, which less urgent ones don't pass.
        aside: int | None = None
        below = len(self._queue.classes)
        # Of a large fleet it takes long to find that no engine has room for prompts.
        if len(self._pool.open) <= SMALL_FLEET or not 0.0 <= now_s - self._looked_s < LOOK_S:
            self._queue.held.clear()
            self._looked_s = now_s
        while self._pool.open:
            entry = self._queue.next(self._pool.free, below, aside)
            if entry is None:
                break
            expected = self._predictor.expected_output(entry)
            tokens = entry.ticket.prompt_tokens + expected
            room_s = self._queue.classes[entry.rank].room_s()
            left_s = entry.budget_s - (now_s - entry.ticket.arrived_s)
            choice = self._router.find(entry.ticket, tokens, room_s, left_s, now_s)
            if choice is not None:
                actions.append(self._grant(entry, choice, expected, now_s))
            elif self._router.has_place(tokens, math.inf, now_s):
                self._queue.held.add(entry.rank)
            else:
                self._queue.blocked = min(self._queue.blocked, entry.rank)
                if self._queue.classes[entry.rank].credit <= 0 or aside is not None:
                    below = entry.rank
                    continue
                # One engine empties for a class that is owed its share; the others go on.
                self._router.keep_roomiest(now_s)
                aside = entry.rank
        return actions

    def _grant(self, entry: Entry, choice: Choice, expected: int, now_s: float) -> Granted | Refused:
        """A lease on it, unless it is too late for that."""
        waited_s = now_s - entry.ticket.arrived_s
        if not self._late(entry, choice, waited_s):
            return self._lease(entry, choice, expected, now_s)
        # For the autoscaler it is an answer that came so late.
        uncached = entry.ticket.prompt_tokens - choice.cached
        self._meter.first_token(entry.rank, waited_s + choice.ttft_s, uncached, now_s)
        return self._evictions.evict(entry, Outcome.EVICTED_DEADLINE, now_s)

    def _late(self, entry: Entry, choice: Choice, waited_s: float) -> bool:
        """Check the promises again, at the moment of dispatch and for this engine. Whoever was told to return
        now, or had a place and lost it, is not looked at again."""
        kept = entry.flow is not entry.payer or entry.ticket.moved
        if kept or not self._config.admission.enabled:
            return False
        ticket = entry.ticket
        # Who was let in before any engine was heard of is not held against initial values.
        engine_s = self._predictor.median_s(choice.ttft_s) if self._pool.pace.learnt else 0.0
        ttft_s = waited_s + engine_s
        if ttft_s > entry.budget_s:
            return True
        policy = self._config.classes[entry.rank]
        if ticket.deadline_s is None and policy.deadline_s is None:
            return False
        return self._predictor.finish_s(ticket, entry.account, ttft_s) > deadline_s(policy, ticket)

    def _lease(self, entry: Entry, choice: Choice, expected: int, now_s: float) -> Granted:
        self._queue.remove(entry)
        held = self._leases.grant(entry, choice, expected, now_s)
        self._router.remember(choice.replica, entry.ticket)
        self._predictor.dispatched(entry.rank, held.cost, now_s)
        wait_s, name = now_s - entry.ticket.arrived_s, self._names[entry.rank]
        return Granted(held.lease, wait_s, name, again=entry.revokes > 0 or entry.ticket.moved)

    def _class_of(self, held: Held) -> str:
        return "" if held.entry is None else self._names[held.entry.rank]

    def _adopt(self, replica: Replica, now_s: float) -> None:
        """Take over what a replica runs, at its first report only: a later one may name a lease that was
        closed while the report was under way."""
        report, metrics = replica.report, replica.report.metrics
        used = 0.0 if metrics is None else metrics.kv_use * metrics.kv_capacity_tokens
        tokens = int(used / (len(report.live_leases) or 1))
        for ticket_id in sorted(report.live_leases):
            if self._leases.get(ticket_id) is None and ticket_id not in self._queue:
                lease = Lease(ticket_id, report.replica_id)
                self._leases.adopt(lease, replica, tokens, now_s)

    def _end_lease(self, held: Held, outcome: Outcome, usage: Usage | None, now_s: float) -> None:
        self._leases.settle(held, usage, ended_early=outcome is not Outcome.COMPLETED)
        self._leases.end(held)
        entry = held.entry
        if entry is not None:
            self._tenants.release_bytes(entry.account, entry.ticket)
            if usage is not None or outcome is not Outcome.COMPLETED:
                prompt_tokens = 0 if usage is None else usage.prompt_tokens
                used = used_tokens(entry.ticket, prompt_tokens, held.output_tokens)
                entry.account.true_up(entry.rate_tokens, used, now_s)
        self._endings.of_lease(outcome, held, usage, now_s)

    # Preempt and requeue

    def _rescue_class(self, rank: int, now_s: float) -> list[Action]:
        """Give the next of a class the place of a less urgent one, if it would be late and there is one."""
        queue = self._queue.classes[rank]
        # Whoever waits for prompts needs nobody's place.
        waits = queue.size > 0 and rank not in self._queue.held
        found = victims(self._leases, self._config.preempt, rank, now_s) if waits else []
        flow = queue.order.next() if found else None
        if flow is None:
            return []
        entry = flow.head()
        wait_s = self._predictor.last_ttft_s(rank, entry.ticket.prompt_tokens, now_s)
        for held, loser in found:
            actions = self._rescue(entry, wait_s, held, loser, now_s)
            if actions:
                return actions
        return []

    def _rescue(self, entry: Entry, wait_s: float, held: Held, loser: Entry, now_s: float) -> list[Action]:
        """In that place; nothing where the engine can't be reached, or has no room for it, or too late."""
        replica = held.replica
        if not self._pool.is_usable(replica, now_s) or not self._pool.reachable(replica, now_s):
            return []
        # A request of many answers may have taken more places than there are.
        full = replica.running - held.answers >= replica.limit.requests
        if full or not at_risk(self._config.preempt, entry, wait_s, now_s):
            return []
        expected = self._predictor.expected_output(entry)
        if not replica.fits(entry.ticket.prompt_tokens + expected - held.tokens, without=1):
            return []
        choice = self._router.choice(replica, entry.ticket, now_s)
        if self._late(entry, choice, now_s - entry.ticket.arrived_s):
            return []
        self._leases.revoke(held, loser)
        granted = self._lease(entry, choice, expected, now_s)
        self._requeue(loser, held)
        return [Revoke(loser.ticket.ticket_id, held.lease.replica_id), granted]

    def _requeue(self, loser: Entry, held: Held) -> Entry:
        """Back into the queue with its age; a new object, because heaps may still hold the old one. `held` is
        the lease that it has lost to another."""
        again = Entry(loser.ticket, loser.rank, loser.account, loser.flow, loser.budget_s, loser.expires_s)
        again.raw_ttft_s, again.predicted_ttft_s = loser.raw_ttft_s, loser.predicted_ttft_s
        again.payer, again.rate_tokens, again.needed = loser.payer, loser.rate_tokens, loser.needed
        again.revokes, again.revoked = loser.revokes + 1, held
        self._queue.push(again)
        return again

    def _give_back(self, held: Held, replica_id: str, now_s: float) -> Held | None:
        """The engine that a ticket was taken from answers it though, and its next lease will not be used."""
        entry = held.entry
        first = None if entry is None else entry.revoked
        if entry is None or first is None or first.replica.gone or first.lease.replica_id != replica_id:
            return None
        self._leases.revoke(held, entry)
        return self._reinstate(self._requeue(entry, first), now_s)

    def _reinstate(self, entry: Entry, now_s: float) -> Held | None:
        """The revoke came too late: the request answers already, so it keeps the place that it had."""
        revoked = entry.revoked
        if revoked is None or revoked.replica.gone:
            return None
        expected = self._predictor.expected_output(entry)
        self._lease(entry, self._router.choice(revoked.replica, entry.ticket, now_s), expected, now_s)
        held = self._leases[entry.ticket.ticket_id]
        held.granted_s = revoked.granted_s
        return held
