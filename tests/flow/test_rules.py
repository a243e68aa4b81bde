"""Any mix of events against a model that knows only the rules at the head of controller.py.

A failing run prints its steps; `@seed` and `@reproduce_failure` of Hypothesis replay it.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.flow import COMPILED
from app.flow.config import AdmissionPolicy, ClassPolicy, FlowConfig, Limits, TenantPolicy
from app.flow.controller import FlowController
from app.flow.gate import MAX_RETRY_AFTER_S
from app.flow.outcome import Outcome
from app.flow.queue import Entry
from app.flow.replicas import FIRST_BAR_S, LATE_REPORT_S, MAX_BAR_S
from app.flow.ticket import (
    Action,
    EngineMetrics,
    Granted,
    Refused,
    ReplicaReport,
    Revoke,
    Ticket,
    Usage,
)

LIMITS = Limits(
    max_queued=5,
    max_queue_wait_s=10.0,
    requests_per_replica=3,
    lease_ttl_s=6.0,
    replica_ttl_s=3.0,
)
BUDGET_S = {"interactive": 3.0, "standard": 6.0, "batch": 30.0}
CONFIG = FlowConfig(
    classes=(
        ClassPolicy("interactive", boost_s=30.0, min_share=0.0, ttft_budget_s=3.0),
        ClassPolicy("standard", boost_s=25.0, min_share=0.1, ttft_budget_s=6.0),
        ClassPolicy("batch", boost_s=0.0, min_share=0.1, ttft_budget_s=30.0, deadline_s=60.0),
    ),
    tenants={
        "capped": TenantPolicy(max_running=1, max_queued=2, max_bytes=100),
        "slow": TenantPolicy(requests_per_minute=6, tokens_per_minute=3000),
        "heavy": TenantPolicy(weight=2.0, highest_class="standard"),
    },
    admission=AdmissionPolicy(initial_service_s=0.5),
)
REPLICAS = st.sampled_from(["r0", "r1", "r2"])
# Dead replicas come back late if at all: too few of them, and every run ends without an engine.
MORTALS = st.sampled_from(["r2", "r3", "r4", "r5"])
CLOSING = st.sampled_from([Outcome.COMPLETED, Outcome.CANCELLED, Outcome.FAILED])
METRICS = st.none() | st.builds(
    EngineMetrics,
    running=st.integers(0, 3),
    waiting=st.integers(0, 3),
    kv_use=st.sampled_from([0.1, 0.99]),
    preemptions=st.integers(0, 2),
    itl_s=st.sampled_from([0.0, 0.02, 0.5]),
    kv_capacity_tokens=st.sampled_from([0, 4000]),
)
TICKETS = st.fixed_dictionaries(
    {
        "tenant": st.sampled_from(["capped", "slow", "heavy", "plain"]),
        "class_name": st.sampled_from(["interactive", "standard", "batch", ""]),
        "priority": st.integers(-1, 1),
        "prompt_tokens": st.sampled_from([1, 100, 100, 500, 2000, 4500, 6000]),
        "max_output_tokens": st.sampled_from([0, 16, 256]),
        "answers": st.sampled_from([1, 1, 1, 2, 4]),
        "ttft_budget_s": st.none() | st.sampled_from([0.5, 4.0, 100.0]),
        "deadline_s": st.none() | st.sampled_from([2.0, 100.0]),
        "prefix_blocks": st.sampled_from([(), (1,), (1, 2)]),
        "session_id": st.sampled_from(["", "s"]),
        "size_bytes": st.sampled_from([0, 60]),
        "fingerprint": st.sampled_from(["", "f", "g"]),
        "revocable": st.sampled_from([True, True, False]),
        "moved": st.sampled_from([False, False, False, False, True]),
    }
)


@dataclass
class ModelReplica:
    seen_s: float
    draining: bool = False
    gone: bool = False
    gone_s: float = -math.inf
    barred_until_s: float = -math.inf


class FlowRules(RuleBasedStateMachine):
    """The model keeps every ticket in exactly one of three places, by what the controller said of it."""

    @initialize(seed=st.integers(0, 3), long_prompts=st.booleans(), share=st.none() | st.just(256))
    def start(self, seed: int, long_prompts: bool, share: int | None) -> None:
        """`long_prompts`: interactive ones, which keep both engines busy for two seconds, and others wait;
        not where prompts share steps, `share` tokens of each."""
        self.now_s = 1000.0
        limits = replace(LIMITS, prompt_step_tokens=share)
        self.flow = FlowController(limits, CONFIG, random.Random(seed).random)
        self.flow.tick(self.now_s)
        self.names = 0
        self.up_to_date = True
        self.waiting: dict[str, Ticket] = {}
        self.leases: dict[str, str] = {}
        self.tickets: dict[str, Ticket] = {}
        self.submitted_s: dict[str, float] = {}
        self.first: set[str] = set()
        # Revoked too late.
        self.reinstated: set[str] = set()
        self.ended: dict[str, Outcome] = {}
        self.replicas: dict[str, ModelReplica] = {}
        self.report("r0", None, False, 0)
        self.report("r1", None, False, 1)
        if long_prompts:
            long = {"priority": 0, "tenant": "plain", "class_name": "interactive", "prompt_tokens": 4500}
            for _ in range(2):
                self.submit(long, 0.0)
            self.tick(0.0, heard=False)
            self.submit(long | {"class_name": "batch"}, 0.0)
            assert self.flow._queue.held == ({2} if share is None else set())

    # What the outside does

    @rule(fields=TICKETS, age_s=st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.0, 12.0]))
    def submit(self, fields: dict[str, object], age_s: float) -> None:
        self.names += 1
        name = f"t{self.names:04}"
        ticket = Ticket(ticket_id=name, arrived_s=self.now_s - age_s, **fields)  # type: ignore[arg-type]
        self.waiting[name] = self.tickets[name] = ticket
        self.submitted_s[name] = self.now_s
        charged = self.charged()
        actions = self.flow.submit(ticket, self.now_s)
        refused = [action for action in actions if isinstance(action, Refused)]
        if len(actions) == 1 and refused and refused[0].ticket_id == name:
            assert self.charged() == charged, "a refusal was charged"
        self.apply(actions)

    @precondition(lambda self: self.waiting or self.leases)
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted({*self.waiting, *self.leases})))
        actions = self.flow.submit(self.tickets.get(name, Ticket(name, 0, self.now_s)), self.now_s)
        if name in self.waiting:
            assert actions == []
        else:
            (action,) = actions
            assert isinstance(action, Granted)
            assert action.lease.replica_id == self.leases[name]

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), outcome=CLOSING, usage=st.none() | st.builds(Usage, st.just(5), st.integers(0, 50)))
    def close(self, data: st.DataObject, outcome: Outcome, usage: Usage | None) -> None:
        name = data.draw(st.sampled_from(sorted({*self.waiting, *self.leases, *self.ended})))
        if name not in self.ended:
            self.end(name, outcome)
        self.apply(self.flow.close(name, outcome, self.now_s, usage))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def first_token(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted({*self.waiting, *self.leases, *self.ended})))
        actions = self.flow.first_tokens([(name, self.now_s)], self.now_s)
        held = self.flow._leases.get(name)
        granted = [one.lease.ticket_id for one in actions if isinstance(one, Granted)]
        if name in self.waiting and held is not None and name not in granted:
            # A revoke came too late: the lease stands again.
            del self.waiting[name]
            self.leases[name] = held.lease.replica_id
            self.reinstated.add(name)
        if name in self.leases:
            self.first.add(name)
        self.apply(actions)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), seconds=st.sampled_from([0.1, 0.5]))
    def serve(self, data: st.DataObject, seconds: float) -> None:
        """The usual life of a lease: a first token, some more, the end."""
        name = data.draw(st.sampled_from(sorted(self.leases)))
        self.now_s += seconds
        self.first.add(name)
        self.apply(self.flow.first_tokens([(name, self.now_s)], self.now_s))
        self.flow.progress(name, 10)
        self.now_s += seconds
        self.end(name, Outcome.COMPLETED)
        self.apply(self.flow.close(name, Outcome.COMPLETED, self.now_s, Usage(5, 20)))
        self.up_to_date = False

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), tokens=st.sampled_from([1, 10, 1000]))
    def progress(self, data: st.DataObject, tokens: int) -> None:
        name = data.draw(st.sampled_from(sorted({*self.leases, "nobody"})))
        self.flow.progress(name, tokens)
        self.first |= {name} & self.leases.keys()

    @rule(
        replica_id=REPLICAS | MORTALS,
        metrics=METRICS,
        draining=st.sampled_from([False, False, False, True]),
        foreign=st.integers(0, 2),
    )
    def report(self, replica_id: str, metrics: EngineMetrics | None, draining: bool, foreign: int) -> None:
        live = {name for name, holder in self.leases.items() if holder == replica_id}
        replica = self.replicas.get(replica_id)
        if replica is None:
            replica = self.replicas[replica_id] = ModelReplica(self.now_s)
            for number in range(foreign):
                name = f"{replica_id}-foreign-{number}"
                live.add(name)
                self.leases[name] = replica_id
        if replica.gone and self.now_s - replica.gone_s > LATE_REPORT_S:
            replica.gone = False
        if not replica.gone:
            replica.seen_s, replica.draining = self.now_s, draining
        said = ReplicaReport(replica_id, frozenset(live), draining, metrics)
        self.apply(self.flow.report(said, self.now_s), expiring=True)

    @rule(replica_id=MORTALS)
    def gone(self, replica_id: str) -> None:
        if replica_id in self.replicas:
            self.replicas[replica_id].gone, self.replicas[replica_id].gone_s = True, self.now_s
            for name in [name for name, holder in self.leases.items() if holder == replica_id]:
                self.end(name, Outcome.FAILED)
        self.apply(self.flow.replica_gone(replica_id, self.now_s))

    @rule(replica_id=REPLICAS)
    def unroutable(self, replica_id: str) -> None:
        self.flow.replica_unroutable(replica_id, self.now_s)
        replica = self.replicas.get(replica_id)
        if replica is None:
            return
        before_s = replica.barred_until_s
        replica.barred_until_s = self.flow._pool.replicas[replica_id].barred_until_s
        if self.now_s < before_s:
            assert replica.barred_until_s == before_s, "calls that fail together count once"
        else:
            assert FIRST_BAR_S - 1e-6 <= replica.barred_until_s - self.now_s <= MAX_BAR_S + 1e-6

    @rule(replica_id=REPLICAS, delay_s=st.sampled_from([-1.0, 1.0, 20.0]))
    def starting(self, replica_id: str, delay_s: float) -> None:
        self.flow.capacity_starting(replica_id, self.now_s + delay_s, self.now_s)

    @rule(seconds=st.sampled_from([0.25, 1.0, 2.0, 4.0]))
    def time_passes_unnoticed(self, seconds: float) -> None:
        self.now_s += seconds
        self.up_to_date = False

    @rule(seconds=st.sampled_from([1.0, 100.0]))
    def the_process_is_frozen(self, seconds: float) -> None:
        """Nobody was silent."""
        self.now_s += seconds
        self.flow.skip(seconds)
        for replica in self.replicas.values():
            replica.seen_s += seconds
            replica.gone_s += seconds
        self.up_to_date = False

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, 4.0, 7.0]), heard=st.sampled_from([True, True, False]))
    def tick(self, seconds: float, heard: bool) -> None:
        self.now_s += seconds
        for replica_id in sorted(self.replicas) if heard else ():
            self.report(replica_id, None, self.replicas[replica_id].draining, 0)
        self.apply(self.flow.tick(self.now_s), expiring=True)
        self.up_to_date = True

    # Seldom: a drain ends most of what can happen.
    @precondition(lambda self: self.names > 30)
    @rule()
    def drain(self) -> None:
        self.apply(self.flow.drain(self.now_s))
        assert not self.waiting

    # What always holds

    @invariant()
    def the_counters_are_those_of_the_model(self) -> None:
        snapshot = self.flow.snapshot(self.now_s)
        if self.expired_unseen(snapshot.in_flight):
            return
        assert snapshot.queued == len(self.waiting) <= LIMITS.max_queued
        assert sum(snapshot.queued_by_class.values()) == snapshot.queued
        assert snapshot.in_flight == len(self.leases)
        answers = [self.tickets[name].answers if name in self.tickets else 1 for name in self.leases]
        assert sum(snapshot.in_flight_by_replica.values()) == sum(answers)
        assert snapshot.ended == Counter(self.ended.values())
        assert snapshot.replicas_ready == len(self.usable())

    @invariant()
    def while_the_next_ticket_fits_nothing_waits(self) -> None:
        """But where its prompts would be in the way of more urgent ones."""
        flow = self.flow
        entry = flow._queue.next(flow._pool.free, len(flow._queue.classes))
        if not self.up_to_date or not flow._pool.open:
            return
        if entry is not None and flow._queue.classes[entry.rank].credit <= 0:
            assert self.engines_for(entry) == []
        for rank in sorted(flow._queue.held):
            queue = flow._queue.classes[rank]
            waiting = queue.order.next() if queue.size else None
            if waiting is not None and queue.credit <= 0:
                assert queue.prefill_room_s < math.inf
                assert self.engines_for(waiting.head()) == []

    @invariant()
    def only_engines_that_can_be_reached_have_places(self) -> None:
        pool = self.flow._pool
        assert pool._free == sum(one.free for one in pool.replicas.values())
        assert bool(pool.free) == bool(pool.open)
        if self.up_to_date:
            assert {one.report.replica_id for one in pool.open} <= self.open()

    @invariant()
    def what_is_counted_as_it_comes_is_what_there_is(self) -> None:
        pool = self.flow._pool
        replicas = pool.replicas.values()
        assert [one.number for one in pool.open] == list(range(len(pool.open)))
        assert sum(one.number is not None for one in replicas) == len(pool.open)
        assert pool.idle == sum(not one.in_flight for one in pool.open)
        assert pool.ready == sum(one.usable for one in replicas)
        assert pool.places == sum(one.places for one in replicas)

    @invariant()
    def nobody_waits_beyond_the_bound(self) -> None:
        if self.up_to_date:
            for ticket in self.waiting.values():
                assert self.now_s - ticket.arrived_s <= self.bound_s(ticket) + 1e-6

    def teardown(self) -> None:
        """At rest, with every ticket closed, all counts are zero and nothing is left to say."""
        if not hasattr(self, "flow"):
            return
        while self.waiting or self.leases:
            for name in sorted({*self.waiting, *self.leases}):
                if name not in self.ended:
                    self.end(name, Outcome.CANCELLED)
                    self.apply(self.flow.close(name, Outcome.CANCELLED, self.now_s))
        snapshot = self.flow.snapshot(self.now_s)
        assert (snapshot.queued, snapshot.in_flight, snapshot.backlog_tokens) == (0, 0, 0)
        assert self.flow.tick(self.now_s) == []
        assert self.flow._pool.prefill_tokens == 0
        for replica in self.flow._pool.replicas.values():
            assert (replica.tokens, replica.running, replica.in_flight) == (0, 0, set())
        assert self.flow._tenants.size_bytes == 0
        for account in self.flow._tenants._accounts.values():
            assert (account.queued, account.running, account.size_bytes) == (0, 0, 0)

    # The model

    def engines_for(self, entry: Entry) -> list[str]:
        """Which have a place, room for its tokens, and few enough prompts."""
        flow, queue = self.flow, self.flow._queue.classes[entry.rank]
        expected = flow._predictor.expected_output(entry)
        tokens = entry.ticket.prompt_tokens + expected
        return [
            one.report.replica_id
            for one in flow._pool.open
            if flow._router._takes(one, tokens, entry.ticket.prompt_tokens, queue.room_s(), self.now_s)
        ]

    def expired_unseen(self, in_flight: int) -> bool:
        """Leases expire without an action: follow the controller's own count of them."""
        flow = self.flow
        # One that was revoked is in the queue again, as an action will tell.
        for name in [one for one in self.leases if flow._leases.get(one) is None and one not in flow._queue]:
            self.end(name, Outcome.LEASE_EXPIRED)
        return in_flight != len(self.leases)

    def charged(self) -> list[float]:
        orders = [queue.order for queue in self.flow._queue.classes]
        return [flow.counter for order in orders for _, flow in sorted(order.flows.items()) if flow.counter]

    def bound_s(self, ticket: Ticket) -> float:
        capped = ticket.tenant == "heavy" and ticket.class_name == "interactive"
        budget_s = BUDGET_S.get("standard" if capped else ticket.class_name, 30.0)
        if ticket.moved:
            return self.submitted_s[ticket.ticket_id] - ticket.arrived_s + LIMITS.max_queue_wait_s
        return min(LIMITS.max_queue_wait_s, budget_s, ticket.ttft_budget_s or math.inf)

    def end(self, name: str, outcome: Outcome) -> None:
        assert name not in self.ended, "a second outcome"
        assert (self.waiting.pop(name, None) is None) != (self.leases.pop(name, None) is None)
        self.ended[name] = outcome

    def apply(self, actions: list[Action], *, expiring: bool = False) -> None:
        """Follow the controller's actions in the model, each checked."""
        if expiring:
            self.expired_unseen(0)
        for action in actions:
            if isinstance(action, Granted):
                self.follow_grant(action)
            elif isinstance(action, Revoke):
                name = action.ticket_id
                assert self.leases.pop(name) == action.replica_id
                assert name not in self.first
                assert self.tickets[name].revocable
                self.waiting[name] = self.tickets[name]
            else:
                self.follow_refusal(action)
        self.limits_hold({a.lease.replica_id: a.lease.ticket_id for a in actions if isinstance(a, Granted)})

    def follow_grant(self, action: Granted) -> None:
        name, replica_id = action.lease.ticket_id, action.lease.replica_id
        ticket = self.waiting.pop(name)
        assert action.queue_wait_s == self.now_s - ticket.arrived_s
        assert action.queue_wait_s <= self.bound_s(ticket) + 1e-6, "expired work was dispatched"
        assert replica_id in self.open()
        assert not (ticket.tenant == "heavy" and action.class_name == "interactive")
        self.leases[name] = replica_id

    def limits_hold(self, granted: dict[str, str]) -> None:
        """`granted`: the last one of each engine, for which there was a place, if not for all its answers."""
        limits = self.flow.snapshot(self.now_s).limit_by_replica
        for replica_id, last in granted.items():
            names = [name for name, on in self.leases.items() if on == replica_id and name != last]
            taken = sum(self.tickets[name].answers if name in self.tickets else 1 for name in names)
            assert taken < limits[replica_id]
        running = Counter(self.tickets[name].tenant for name in self.leases if name in self.tickets)
        queued = Counter(ticket.tenant for ticket in self.waiting.values() if not ticket.moved)
        again = Counter(self.tickets[name].tenant for name in self.reinstated if name in self.leases)
        assert running["capped"] <= 1 + again["capped"]
        assert queued["capped"] <= 2 + 1

    def follow_refusal(self, action: Refused) -> None:
        assert action.outcome.refuses
        assert action.retry_after_s is None or 1 <= action.retry_after_s <= MAX_RETRY_AFTER_S
        assert action.ticket_id in self.waiting, "only what waits is refused"
        self.end(action.ticket_id, action.outcome)

    def usable(self) -> set[str]:
        return {
            id_
            for id_, r in self.replicas.items()
            if not r.gone and not r.draining and self.now_s - r.seen_s <= LIMITS.replica_ttl_s
        }

    def open(self) -> set[str]:
        return {id_ for id_ in self.usable() if self.now_s >= self.replicas[id_].barred_until_s}


# Interpreted, each takes several times as long.
FlowRules.TestCase.settings = settings(
    max_examples=250 if COMPILED else 60, stateful_step_count=80, deadline=None, print_blob=True
)
TestFlowRules = FlowRules.TestCase


def test_without_promises_the_same_rules_hold() -> None:
    """The ablated gate keeps the contract of a refusal."""
    config = replace(CONFIG, admission=replace(CONFIG.admission, promises=False))
    flow = FlowController(LIMITS, config, lambda: 0.0)
    flow.report(ReplicaReport("r", frozenset()), 0.0)
    actions = [a for n in range(40) for a in flow.submit(Ticket(f"t{n}", -1, 0.0), 0.0)]
    refused = [a for a in actions if isinstance(a, Refused)]
    assert refused
    assert all(not a.promised for a in refused)
