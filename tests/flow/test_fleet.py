"""Which of many engines: a few are looked at, and all where these will not do."""

from __future__ import annotations

import math
import random

import pytest

from app.flow.config import FlowConfig, Limits, RoutePolicy
from app.flow.controller import FlowController
from app.flow.outcome import Outcome
from app.flow.route import DRAWN, MAX_ASKED, MAX_KNOWING, SMALL_FLEET
from app.flow.ticket import EngineMetrics, Granted, ReplicaReport, Ticket

LIMITS = Limits(
    max_queued=1000, max_queue_wait_s=60.0, requests_per_replica=4, lease_ttl_s=600.0, replica_ttl_s=600.0
)
FLEET = 200


class Draws:
    """Numbers in [0, 1), one after the other and from the start again; it counts them."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers
        self.count = 0

    def __call__(self) -> float:
        self.count += 1
        return self.numbers[(self.count - 1) % len(self.numbers)]


class Fleet:
    def __init__(self, engines: int = FLEET, uniform=None, **route: object) -> None:
        self.draws = uniform or random.Random(0).random
        self.flow = FlowController(LIMITS, FlowConfig(route=RoutePolicy(**route)), self.draws)
        for number in range(engines):
            self.report(number)
        self.count = 0

    def report(self, number: int, metrics: EngineMetrics | None = None) -> None:
        """Of an engine that runs nothing."""
        self.flow.report(ReplicaReport(f"r{number}", frozenset(), metrics=metrics), 0.0)

    def busy(self, number: int, tokens: int) -> None:
        """With a prompt of so many tokens."""
        replica = self.flow._pool.replicas[f"r{number}"]
        replica.clock.give(tokens, 0, 0.0)
        replica.running = 1

    def submit(self, **fields: object) -> str | None:
        """The engine that it gets."""
        self.count += 1
        [action] = self.flow.submit(Ticket(f"t{self.count}", 0, 0.0, **fields), 0.0) or [None]
        return action.lease.replica_id if isinstance(action, Granted) else None


def test_the_places_of_a_fleet_are_all_given_away_and_evenly():
    fleet = Fleet()
    for _ in range(FLEET):
        fleet.submit()
    running = [one.running for one in fleet.flow._pool.replicas.values()]
    assert sum(running) == FLEET
    # One at random of as many would have six on some.
    assert max(running) <= 2
    for _ in range(3 * FLEET):
        assert fleet.submit() is not None
    assert fleet.flow.snapshot(0.0).in_flight == 4 * FLEET
    assert fleet.submit() is None


def test_of_a_large_fleet_few_are_drawn_and_of_a_small_one_none():
    for engines in (FLEET, SMALL_FLEET):
        fleet = Fleet(engines, Draws(0.5))
        fleet.submit()
        # One more spreads hints of refusals, which there are none of.
        assert fleet.draws.count == (DRAWN if engines > SMALL_FLEET else 0)


def test_who_knows_the_longest_part_of_a_prompt_has_it_though_it_is_never_drawn():
    fleet = Fleet(uniform=Draws(0.0, 0.001))
    blocks = (1, 2, 3)
    for number in (0, 150):
        fleet.flow._router._prefix.add(f"r{number}", blocks[: 1 if number == 0 else 3])
    assert fleet.submit(prompt_tokens=1000, prefix_blocks=blocks) == "r150"


def test_where_all_know_the_beginning_a_few_are_looked_at_and_those_drawn_know_it_too():
    fleet = Fleet(uniform=Draws(0.9))
    for number in range(FLEET):
        fleet.flow._router._prefix.add(f"r{number}", (1, 2))
    ticket = Ticket("t", 0, 0.0, prompt_tokens=512, prefix_blocks=(1, 2, 3))
    assert len(fleet.flow._router._knowing(ticket, 512, math.inf, 0.0)) == MAX_KNOWING
    # Those have something to do: one that was drawn is as good and free.
    for number in range(MAX_KNOWING):
        fleet.busy(number, 1_000_000)
    chosen = fleet.flow._router.find(ticket, 512, math.inf, 2.0, 0.0)
    assert (chosen.replica.report.replica_id, chosen.cached) == ("r180", 512)


def test_who_knows_it_and_has_no_place_is_passed_over():
    fleet = Fleet(uniform=Draws(0.5))
    fleet.flow._router._prefix.add("r7", (1, 2, 3))
    fleet.flow._router._prefix.add("r8", (1, 2))
    for _ in range(4):
        assert fleet.submit(prompt_tokens=600, prefix_blocks=(1, 2, 3)) == "r7"
        fleet.flow.first_tokens([(f"t{fleet.count}", 0.0)], 0.0)
    assert fleet.submit(prompt_tokens=600, prefix_blocks=(1, 2, 3)) == "r8"


def test_who_knows_it_has_it_though_most_requests_would_not_fit_into_its_cache():
    fleet = Fleet(6, uniform=Draws(0.0))
    fleet.report(5, EngineMetrics(running=0, waiting=0, kv_use=0.0, kv_capacity_tokens=1000))
    fleet.flow._router._prefix.add("r5", (1,))
    # What others reserve on average is more than it has room for; this one is less.
    for _ in range(200):
        fleet.flow._pool._lease_tokens.add(5000.0)
    fleet.submit(prompt_tokens=300, max_output_tokens=10, prefix_blocks=(1,))
    fleet.flow.tick(0.0)
    assert fleet.flow._pool.replicas["r5"].free == 0
    assert fleet.submit(prompt_tokens=300, max_output_tokens=10, prefix_blocks=(1,)) == "r5"


def test_those_that_know_it_and_can_not_take_it_are_no_reason_to_pass_over_one_that_can():
    fleet = Fleet(uniform=Draws(0.9))
    for number in range(MAX_KNOWING + 1):
        fleet.flow._router._prefix.add(f"r{number}", (1,))
    for number in range(MAX_KNOWING):
        fleet.flow.replica_unroutable(f"r{number}", 0.0)
    assert fleet.submit(prompt_tokens=300, prefix_blocks=(1,)) == f"r{MAX_KNOWING}"


def test_not_all_that_know_it_are_asked():
    fleet = Fleet(uniform=Draws(0.9))
    for number in range(MAX_ASKED):
        fleet.flow._router._prefix.add(f"r{number}", (1,))
        fleet.flow._pool.replicas[f"r{number}"].barred_until_s = 1.0
    fleet.flow._router._prefix.add("r100", (1,))
    assert fleet.submit(prompt_tokens=300, prefix_blocks=(1,)) == "r180"


def test_a_session_stays_where_it_is_in_a_large_fleet():
    fleet = Fleet()
    first = fleet.submit(session_id="s")
    assert [fleet.submit(session_id="s") for _ in range(3)] == [first] * 3
    assert fleet.submit(session_id="s") not in (first, None)


def test_without_affinity_nobody_knows_anything():
    fleet = Fleet(affinity=False, uniform=Draws(0.0))
    fleet.flow._router._prefix.add("r9", (1,))
    assert fleet.submit(prompt_tokens=300, prefix_blocks=(1,), session_id="s") == "r0"
    assert fleet.flow._router.cached(Ticket("t", 0, 0.0, prompt_tokens=300, prefix_blocks=(1,))) == 0


def test_where_those_that_are_drawn_are_too_slow_the_soonest_of_all_has_it():
    fleet = Fleet(uniform=Draws(0.0))
    for number in range(FLEET - 1):
        fleet.busy(number, 20_000)
    assert fleet.submit(class_name="interactive", prompt_tokens=10) == f"r{FLEET - 1}"


def test_where_those_that_are_drawn_have_no_room_in_their_caches_another_has_it():
    fleet = Fleet(uniform=Draws(0.0))
    fleet.report(0, EngineMetrics(running=0, waiting=0, kv_use=0.9, kv_capacity_tokens=1000))
    assert fleet.submit(prompt_tokens=500, max_output_tokens=100) == "r0"
    assert fleet.submit(prompt_tokens=500, max_output_tokens=100) not in ("r0", None)


@pytest.mark.parametrize("seed", range(3))
def test_an_engine_that_goes_leaves_the_others_where_they_are(seed: int):
    source = random.Random(seed)
    fleet = Fleet(20)
    for _ in range(200):
        number = source.randrange(20)
        if source.random() < 0.3:
            fleet.flow.replica_gone(f"r{number}", 0.0)
        elif source.random() < 0.5:
            fleet.submit()
        elif running := sorted(fleet.flow._pool.replicas[f"r{number}"].in_flight):
            fleet.flow.close(running[0], Outcome.COMPLETED, 0.0)
        pool = fleet.flow._pool
        has_place = {name for name, one in pool.replicas.items() if not one.gone and one.running < 4}
        assert {one.report.replica_id for one in pool.open} == has_place
        assert [one.number for one in pool.open] == list(range(len(pool.open)))
