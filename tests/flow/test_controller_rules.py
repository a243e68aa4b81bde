"""Any mix of events against a model that knows only the rules at the head of controller.py."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.flow.controller import MAX_RETRY_AFTER_S, UNROUTABLE_BAR_S, FlowController, Limits
from app.flow.outcome import Outcome
from app.flow.ticket import Action, Granted, Refused, ReplicaReport, Ticket

LIMITS = Limits(
    max_queued=3, max_queue_wait_s=10.0, requests_per_replica=2, lease_ttl_s=6.0, replica_ttl_s=3.0
)
REPLICAS = st.sampled_from(["r0", "r1", "r2"])
CLOSING = st.sampled_from([Outcome.COMPLETED, Outcome.CANCELLED, Outcome.FAILED])


@dataclass
class ModelReplica:
    seen_s: float
    draining: bool = False
    gone: bool = False
    barred_until_s: float = -math.inf


@dataclass
class ModelLease:
    replica_id: str
    seen_s: float


class ControllerRules(RuleBasedStateMachine):
    """The model keeps every ticket in exactly one of three places, by what the controller said of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.born_s = self.now_s
        self.flow = FlowController(LIMITS)
        self.flow.tick(self.now_s)
        self.names = 0
        self.draining = False
        # False while time has passed that the controller was not told of.
        self.up_to_date = True
        self.waiting: dict[str, tuple[int, float, int]] = {}
        self.leases: dict[str, ModelLease] = {}
        self.ended: dict[str, Outcome] = {}
        self.replicas: dict[str, ModelReplica] = {}

    # What the outside does

    @rule(priority=st.integers(0, 2), age_s=st.sampled_from([0.0, 0.0, 1.0, 12.0]))
    def submit(self, priority: int, age_s: float) -> None:
        ticket = Ticket(self.new_name(), priority, self.now_s - age_s)
        full, last = len(self.waiting) == LIMITS.max_queued, self.last_waiting()
        without_engine = self.without_engine()
        self.waiting[ticket.ticket_id] = (priority, ticket.arrived_s, self.names)
        actions = self.flow.submit(ticket, self.now_s)
        if self.draining:
            expected = [(ticket.ticket_id, Outcome.REJECTED_DRAINING)]
        elif without_engine:
            expected = [(ticket.ticket_id, Outcome.REJECTED_NO_ENGINE)]
        elif full and last is not None and self.waiting[last][0] > priority:
            expected = [(last, Outcome.EVICTED_PREEMPTED)]
        elif full:
            expected = [(ticket.ticket_id, Outcome.REJECTED_FULL)]
        else:
            expected = []
        assert self.apply(actions) == expected

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def submit_again_while_queued(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.flow.submit(Ticket(name, self.waiting[name][0], self.now_s), self.now_s) == []

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def submit_again_while_running(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.leases)))
        (action,) = self.flow.submit(Ticket(name, 0, self.now_s), self.now_s)
        assert isinstance(action, Granted)
        assert (action.lease.ticket_id, action.lease.replica_id) == (name, self.leases[name].replica_id)

    @precondition(lambda self: self.waiting or self.leases or self.ended)
    @rule(data=st.data(), outcome=CLOSING)
    def close(self, data: st.DataObject, outcome: Outcome) -> None:
        name = data.draw(st.sampled_from(sorted({*self.waiting, *self.leases, *self.ended})))
        if name not in self.ended:
            self.end(name, outcome)
        assert self.apply(self.flow.close(name, outcome, self.now_s)) == []

    @rule(
        replica_id=REPLICAS,
        data=st.data(),
        foreign=st.integers(0, LIMITS.requests_per_replica),
        draining=st.booleans(),
    )
    def report(self, replica_id: str, data: st.DataObject, foreign: int, draining: bool) -> None:
        """Names some of the replica's own leases, some of everybody's tickets, and unknown ones."""
        everyone = sorted({*self.waiting, *self.leases, *self.ended})
        first = replica_id not in self.replicas
        live = data.draw(st.sets(st.sampled_from(everyone), max_size=6)) if everyone and not first else set()
        if first:
            live |= {self.new_name() for _ in range(foreign)} | set(self.waiting) | set(self.leases)
        self.note_report(replica_id, live, draining, first)
        actions = self.flow.report(ReplicaReport(replica_id, frozenset(live), draining), self.now_s)
        assert self.apply(actions) == []

    @rule(replica_id=REPLICAS)
    def gone(self, replica_id: str) -> None:
        if replica_id in self.replicas:
            self.replicas[replica_id].gone = True
            for name in [name for name, lease in self.leases.items() if lease.replica_id == replica_id]:
                self.end(name, Outcome.FAILED)
        refused = self.apply(self.flow.replica_gone(replica_id, self.now_s))
        assert all(outcome is Outcome.EVICTED_NO_ENGINE for _, outcome in refused)

    @rule(replica_id=REPLICAS)
    def unroutable(self, replica_id: str) -> None:
        if replica_id in self.replicas:
            self.replicas[replica_id].barred_until_s = self.now_s + UNROUTABLE_BAR_S
        self.flow.replica_unroutable(replica_id, self.now_s)

    @rule(seconds=st.sampled_from([0.25, 1.0, 2.0, 4.0]))
    def time_passes_unnoticed(self, seconds: float) -> None:
        self.now_s += seconds
        self.up_to_date = False

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, 4.0, 7.0]))
    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        for name, lease in list(self.leases.items()):
            if self.now_s - lease.seen_s > LIMITS.lease_ttl_s:
                self.end(name, Outcome.LEASE_EXPIRED)
        overdue = {
            name
            for name, (_, arrived_s, _) in self.waiting.items()
            if self.now_s - arrived_s > LIMITS.max_queue_wait_s
        }
        without_engine = self.without_engine()
        refused = self.apply(self.flow.tick(self.now_s))
        assert {name for name, outcome in refused if outcome is Outcome.EVICTED_TIMEOUT} == overdue
        assert without_engine or len(refused) == len(overdue)
        self.up_to_date = True

    # Seldom: a drain ends most of what can happen.
    @precondition(lambda self: self.names > 10)
    @rule()
    def drain(self) -> None:
        self.draining = True
        refused = self.apply(self.flow.drain(self.now_s))
        assert all(outcome is Outcome.EVICTED_DRAINING for _, outcome in refused)
        assert not self.waiting

    # What always holds

    @invariant()
    def the_counters_are_those_of_the_model(self) -> None:
        snapshot = self.flow.snapshot(self.now_s)
        assert snapshot.queued == len(self.waiting) <= LIMITS.max_queued
        assert snapshot.in_flight == len(self.leases) == sum(snapshot.in_flight_by_replica.values())
        assert snapshot.ended == Counter(self.ended.values())
        assert snapshot.replicas_ready == len(self.open())
        for replica_id, in_flight in snapshot.in_flight_by_replica.items():
            assert in_flight == self.in_flight(replica_id) <= LIMITS.requests_per_replica

    @invariant()
    def while_a_place_is_free_nothing_waits(self) -> None:
        places = [r for r in self.open() if self.in_flight(r) < LIMITS.requests_per_replica]
        assert not (self.up_to_date and self.waiting and places)

    def teardown(self) -> None:
        """At rest, with every ticket closed, all counts are zero and nothing is left to say."""
        for name in [*self.waiting, *self.leases]:
            self.flow.close(name, Outcome.CANCELLED, self.now_s)
        for name in {*self.waiting, *self.leases}:
            self.flow.close(name, Outcome.CANCELLED, self.now_s)
        snapshot = self.flow.snapshot(self.now_s)
        assert (snapshot.queued, snapshot.in_flight) == (0, 0)
        assert not any(snapshot.in_flight_by_replica.values())
        assert self.flow.tick(self.now_s) == []

    # The model

    def new_name(self) -> str:
        self.names += 1
        return f"t{self.names:04}"

    def end(self, name: str, outcome: Outcome) -> None:
        assert name not in self.ended, "a second outcome"
        assert (self.waiting.pop(name, None) is None) != (self.leases.pop(name, None) is None)
        self.ended[name] = outcome

    def apply(self, actions: list[Action]) -> list[tuple[str, Outcome]]:
        """Follows the controller's actions in the model, each checked; returns the refusals."""
        refused = []
        for action in actions:
            if isinstance(action, Granted):
                self.follow_grant(action)
            else:
                self.follow_refusal(action)
                refused.append((action.ticket_id, action.outcome))
        return refused

    def follow_grant(self, action: Granted) -> None:
        name, replica_id = action.lease.ticket_id, action.lease.replica_id
        assert name == min(self.waiting, key=self.waiting.__getitem__), "overtaken"
        assert action.queue_wait_s == self.now_s - self.waiting.pop(name)[1]
        assert replica_id in self.open()
        assert self.in_flight(replica_id) == min(self.in_flight(r) for r in self.open())
        self.leases[name] = ModelLease(replica_id, self.now_s)

    def follow_refusal(self, action: Refused) -> None:
        assert action.outcome.refuses
        assert 1 <= action.retry_after_s <= MAX_RETRY_AFTER_S
        assert action.ticket_id in self.waiting, "only what waits is refused"
        self.end(action.ticket_id, action.outcome)

    def note_report(self, replica_id: str, live: set[str], draining: bool, first: bool) -> None:
        replica = self.replicas.setdefault(replica_id, ModelReplica(self.now_s))
        if replica.gone:
            return
        replica.seen_s, replica.draining = self.now_s, draining
        for name in live:
            if first and name not in self.waiting and name not in self.leases:
                self.leases[name] = ModelLease(replica_id, self.now_s)
            elif name in self.leases and self.leases[name].replica_id == replica_id:
                self.leases[name].seen_s = self.now_s

    def in_flight(self, replica_id: str) -> int:
        return sum(lease.replica_id == replica_id for lease in self.leases.values())

    def usable(self) -> set[str]:
        return {
            id_
            for id_, r in self.replicas.items()
            if not r.gone and not r.draining and self.now_s - r.seen_s <= LIMITS.replica_ttl_s
        }

    def open(self) -> set[str]:
        return {r for r in self.usable() if self.replicas[r].seen_s >= self.replicas[r].barred_until_s}

    def without_engine(self) -> bool:
        young = not self.replicas and self.now_s - self.born_s <= LIMITS.replica_ttl_s
        return not self.usable() and not young

    def last_waiting(self) -> str | None:
        return max(self.waiting, key=self.waiting.__getitem__, default=None)


ControllerRules.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestControllerRules = ControllerRules.TestCase
