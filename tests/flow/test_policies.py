"""What every policy owes its clients: one suite over ours, its ablations and the peers.

A seeded storm of events, replayable by its seed, which every failure names.
"""

from __future__ import annotations

import random

import pytest

from app.flow import COMPILED
from app.flow.outcome import Outcome
from app.flow.ticket import Action, EngineMetrics, Granted, Refused, ReplicaReport, Ticket, Usage
from placement.simulation.engine import ENGINES
from placement.simulation.experiment import POLICIES
from placement.simulation.simulator import Policy

# Interpreted, each takes several times as long.
SEEDS = range(3 if COMPILED else 1)
STEPS = 1500
CLASSES = ("interactive", "standard", "batch")


class Storm:
    """Drives a policy at random and keeps its own books."""

    def __init__(self, policy: Policy, seed: int) -> None:
        self.policy = policy
        self.source = random.Random(seed)
        self.now_s = 100.0
        self.waiting: dict[str, Ticket] = {}
        self.leases: dict[str, str] = {}
        self.ended: dict[str, Outcome] = {}
        self.alive = {"r0", "r1", "r2"}
        for replica_id in sorted(self.alive):
            self.report(replica_id)

    def run(self) -> None:
        steps = [self.submit] * 8 + [self.finish] * 6 + [self.cancel, self.tick, self.tick, self.lose]
        for _ in range(STEPS):
            self.source.choice(steps)()
            assert len(self.leases) + len(self.waiting) + len(self.ended) == self.names

    names = 0

    def submit(self) -> None:
        self.names += 1
        name = f"t{self.names}"
        tenant, class_name = f"tenant-{self.source.randrange(4)}", self.source.choice(CLASSES)
        prompt = self.source.randrange(1, 3000)
        ticket = Ticket(name, 0, self.now_s, tenant, class_name, prompt, self.source.choice([0, 64, 256]))
        self.waiting[name] = ticket
        self.apply(self.policy.submit(ticket, self.now_s))

    def finish(self) -> None:
        if self.leases:
            name = self.source.choice(sorted(self.leases))
            self.apply(self.policy.first_tokens([(name, self.now_s)], self.now_s))
            self.policy.progress(name, 5)
            self.end(name, Outcome.COMPLETED)
            self.apply(self.policy.close(name, Outcome.COMPLETED, self.now_s, Usage(10, 20, 0.1)))

    def cancel(self) -> None:
        if self.waiting or self.leases:
            name = self.source.choice(sorted({*self.waiting, *self.leases}))
            self.end(name, Outcome.CANCELLED)
            self.apply(self.policy.close(name, Outcome.CANCELLED, self.now_s))

    def tick(self) -> None:
        self.now_s += self.source.choice([0.1, 0.1, 1.0])
        for replica_id in sorted(self.alive):
            self.report(replica_id)
        self.apply(self.policy.tick(self.now_s))

    def lose(self) -> None:
        """Seldom: a replica dies and another one comes."""
        if self.source.random() < 0.2:
            replica_id = self.source.choice(sorted(self.alive))
            self.alive.remove(replica_id)
            for name in [name for name, holder in self.leases.items() if holder == replica_id]:
                self.end(name, Outcome.FAILED)
            self.apply(self.policy.replica_gone(replica_id, self.now_s))
            self.alive.add(f"r{self.names + 10}")
            self.report(f"r{self.names + 10}")

    def report(self, replica_id: str) -> None:
        live = frozenset(name for name, holder in self.leases.items() if holder == replica_id)
        metrics = EngineMetrics(running=len(live), waiting=0, kv_use=0.3, itl_s=0.02)
        self.apply(self.policy.report(ReplicaReport(replica_id, live, metrics=metrics), self.now_s))

    def end(self, name: str, outcome: Outcome) -> None:
        assert name not in self.ended, "a second outcome"
        assert (self.waiting.pop(name, None) is None) != (self.leases.pop(name, None) is None)
        self.ended[name] = outcome

    def apply(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Granted):
                del self.waiting[action.lease.ticket_id]
                assert action.lease.replica_id in self.alive
                assert action.queue_wait_s >= 0
                self.leases[action.lease.ticket_id] = action.lease.replica_id
            else:
                assert isinstance(action, Refused)
                assert action.outcome.refuses
                assert action.retry_after_s is None or action.retry_after_s >= 1
                self.end(action.ticket_id, action.outcome)


def policy_of(name: str, seed: int) -> Policy:
    return POLICIES[name](ENGINES["gpu-like"], seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_ticket_has_one_place_and_at_most_one_outcome(name: str, seed: int):
    storm = Storm(policy_of(name, seed), seed)
    storm.run()
    while storm.leases or storm.waiting:
        storm.cancel()
    assert len(storm.ended) == storm.names


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_free_engine_is_used_at_once(name: str):
    policy = policy_of(name, 0)
    metrics = EngineMetrics(running=0, waiting=0, kv_use=0.0)
    policy.report(ReplicaReport("r", frozenset(), metrics=metrics), 0.0)
    (action,) = policy.submit(Ticket("t", 0, 0.0, class_name="batch"), 0.0)
    assert isinstance(action, Granted)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_death_of_an_unknown_replica_and_an_unknown_close_change_nothing(name: str):
    policy = policy_of(name, 0)
    policy.report(ReplicaReport("r", frozenset()), 0.0)
    assert policy.replica_gone("s", 0.0) == []
    assert policy.close("nobody", Outcome.COMPLETED, 0.0) == []


@pytest.mark.parametrize("name", ["fifo-cap-32", "strict-priority-ttl", "round-robin"])
def test_a_peer_without_an_engine_refuses(name: str):
    policy = policy_of(name, 0)
    (action,) = policy.submit(Ticket("t", 0, 0.0), 0.0)
    assert action.outcome is Outcome.REJECTED_NO_ENGINE
