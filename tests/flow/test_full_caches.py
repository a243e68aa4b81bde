"""Engines whose caches are full long before their places are: what counts is what fits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.flow import COMPILED
from app.flow.config import AdmissionPolicy, FlowConfig, LimitPolicy, Limits, default_classes
from app.flow.controller import FlowController
from app.flow.limit import AdaptiveLimit
from app.flow.outcome import Outcome
from app.flow.ticket import EngineMetrics, Granted, ReplicaReport, Ticket, Usage

# Of a thousand tokens each ten fit, though there are a hundred places.
PLACES, FITTING, TOKENS = 100, 10, 1000
LIMITS = Limits(
    max_queued=1000, max_queue_wait_s=60.0, requests_per_replica=PLACES, lease_ttl_s=1e6, replica_ttl_s=1e6
)
METRICS = EngineMetrics(running=1, waiting=0, kv_use=0.5, kv_capacity_tokens=FITTING * TOKENS)


def config(reserve_roots: float = 0.0) -> FlowConfig:
    classes = tuple(
        replace(one, reserve_roots=reserve_roots if one.name == "batch" else 0.0) for one in default_classes()
    )
    # Nothing here is about prompts.
    admission = AdmissionPolicy(initial_prefill_tokens_per_s=1e9)
    return FlowConfig(classes=classes, admission=admission, limit=LimitPolicy(kv_reserve=1.0))


class Engine:
    """One, and tickets of a thousand tokens in all, a hundred of them output."""

    def __init__(self, config: FlowConfig) -> None:
        self.flow = FlowController(LIMITS, config, lambda: 0.0)
        self.flow.tick(0.0)
        self.report(0.0)
        self.running: list[str] = []
        self.count = 0

    def report(self, at_s: float, **changes: float) -> None:
        self.flow.report(ReplicaReport("r", frozenset(), metrics=replace(METRICS, **changes)), at_s)

    def submit(self, class_name: str, at_s: float = 0.0, tokens: int = TOKENS) -> bool:
        """Whether it got a place at once."""
        self.count += 1
        ticket = Ticket(
            f"t{self.count}", 0, at_s, "a", class_name, prompt_tokens=tokens - 100, max_output_tokens=100
        )
        actions = self.flow.submit(ticket, at_s)
        granted = [one.lease.ticket_id for one in actions if isinstance(one, Granted)]
        self.running += granted
        return ticket.ticket_id in granted

    def complete(self, at_s: float) -> None:
        name = self.running.pop(0)
        actions = self.flow.close(name, Outcome.COMPLETED, at_s, Usage(TOKENS - 100, 100, 0.1, 1.0))
        self.running += [one.lease.ticket_id for one in actions if isinstance(one, Granted)]


def test_the_places_of_an_engine_are_those_that_its_cache_has_room_for():
    engine = Engine(config())
    assert engine.flow._pool.places == PLACES
    for _ in range(4):
        assert engine.submit("interactive")
    engine.report(1.0)
    assert (engine.flow._pool.places, engine.flow._pool.free) == (FITTING, FITTING - 4)
    # For Little's law the autoscaler divides by them.
    assert engine.flow.load(60.0, 1.0).places_per_replica == FITTING


@pytest.mark.skipif(COMPILED, reason="sets what the core would learn: interpreted only")
def test_what_is_left_to_more_urgent_ones_is_left_of_what_fits():
    engine = Engine(config(reserve_roots=2.0))
    # Four of ten are left: two roots of four.
    engine.flow._predictor.urgent_places = lambda rank, now_s: 4.0 if rank else 0.0
    engine.flow._doors._free_soon = lambda rank: 0.0
    assert engine.submit("batch")
    engine.report(0.1)
    engine.flow.tick(0.1)
    # The reserve is never more than a quarter of all.
    placed = [engine.submit("batch", 0.1) for _ in range(FITTING)]
    assert placed.count(True) == FITTING - 1 - FITTING // 4
    assert [engine.submit("interactive", 0.2) for _ in range(3)] == [True, True, False]


def test_what_is_small_goes_where_nothing_like_the_others_would_fit():
    engine = Engine(config())
    for _ in range(FITTING - 1):
        assert engine.submit("interactive")
    assert engine.submit("interactive", tokens=TOKENS // 2)
    assert engine.flow._pool._free == 0
    assert engine.submit("interactive", tokens=TOKENS // 4)


def test_an_empty_engine_has_a_place_for_what_is_larger_than_its_limit():
    engine = Engine(config())
    assert engine.submit("interactive", tokens=2 * FITTING * TOKENS)
    engine.report(0.5)
    assert engine.flow._pool.places == 1
    engine.complete(1.0)
    assert engine.flow._pool.free == 1


@pytest.mark.parametrize(("given", "grows"), [(FITTING - 1, True), (FITTING // 2, False)])
def test_a_limit_grows_back_where_its_tokens_are_nearly_all_given(given: int, grows: bool):
    one = AdaptiveLimit(LimitPolicy(kv_reserve=1.0, window_s=0.0), PLACES, batched_tokens=2048)
    one.observe(METRICS, given, given * TOKENS, 0.0)
    one.observe(replace(METRICS, kv_use=0.99), given, given * TOKENS, 1.0)
    shrunk = one.requests
    assert shrunk < PLACES
    for second in range(2, 2 + PLACES):
        fitting = min(given, one.tokens // TOKENS)
        one.observe(METRICS, fitting, fitting * TOKENS, float(second))
    assert one.requests == (PLACES if grows else shrunk)
