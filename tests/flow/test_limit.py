from __future__ import annotations

from dataclasses import replace

import pytest

from app.flow.config import LimitPolicy
from app.flow.limit import AdaptiveLimit
from app.flow.ticket import EngineMetrics

CALM = EngineMetrics(running=10, waiting=0, kv_use=0.5, itl_s=0.02, kv_capacity_tokens=10_000)


def limit(start: int = 40, **changes) -> AdaptiveLimit:
    return AdaptiveLimit(replace(LimitPolicy(), **changes), start, batched_tokens=2048)


def test_it_grows_by_one_only_when_nearly_full_up_to_its_start():
    one = limit()
    one.observe(replace(CALM, kv_use=0.99), 40, 0, 0.0)
    assert one.requests == 36
    one.observe(CALM, 10, 0, 1.0)
    assert one.requests == 36
    for second in range(1, 20):
        one.observe(CALM, one.requests, 0, float(second))
    assert one.requests == 40


@pytest.mark.parametrize("start", range(1, 10))
@pytest.mark.parametrize("shrinks", [1, 3, 10])
def test_few_places_that_are_all_taken_grow_back(start: int, shrinks: int):
    """Only whole places can be taken: a limit of 1.8 is one."""
    one = limit(start, window_s=0.0)
    for second in range(shrinks):
        one.observe(replace(CALM, kv_use=0.99), 0, 0, float(second))
    for second in range(start):
        one.observe(CALM, one.requests, 0, float(shrinks + second))
    assert one.requests == start


def test_the_burst_follows_the_length_of_prompts():
    one = limit()
    for _ in range(500):
        one.granted(8000)
    assert one.burst == 1
    for _ in range(500):
        one.granted(10)
    assert one.burst == 6  # 15 % of 40


def test_it_shrinks_once_a_window_on_each_sign_of_suffering():
    for sign in ({"preemptions": 1}, {"kv_use": 0.97}, {"itl_s": 0.4}, {"waiting": 9}):
        one = limit()
        one.observe(CALM, 40, 0, 0.0)
        one.observe(replace(CALM, **sign), 40, 0, 1.0)
        one.observe(replace(CALM, **sign, preemptions=2) if "preemptions" not in sign else CALM, 40, 0, 2.0)
        assert one.requests in (36, 37, 38), sign


def test_preemptions_before_the_first_report_are_not_held_against_it():
    one = limit()
    one.observe(replace(CALM, preemptions=7), 1, 0, 0.0)
    assert one.requests == 40


def test_the_cache_bounds_the_tokens_from_the_first_report_on():
    one = limit()
    one.observe(replace(CALM, kv_capacity_tokens=1000), 1, 0, 0.0)
    assert (one.requests, one.tokens) == (40, 950)


def test_it_never_falls_below_its_floor():
    one = limit(window_s=0.0)
    for second in range(100):
        one.observe(replace(CALM, kv_use=1.0), 40, 0, float(second))
    assert one.requests == 5


def test_stale_metrics_hold_the_limit_and_then_decay_it():
    one = limit()
    one.observe(CALM, 40, 0, 0.0)
    one.observe(None, 40, 0, 2.0)
    assert one.requests == 40
    one.observe(None, 40, 0, 4.0)
    assert one.requests == 36


@pytest.mark.parametrize("metrics", [replace(CALM, kv_use=0.99), None])
def test_a_clock_that_is_set_back_stops_no_shrinking(metrics: EngineMetrics | None):
    one = limit()
    one.observe(replace(CALM, kv_use=0.99), 40, 0, 3600.0)
    assert one.requests == 36
    one.set_back(-3600.0)
    one.observe(metrics, 36, 0, 1.0)
    assert one.requests == 36
    one.observe(metrics, 36, 0, 4.0)
    assert one.requests == 32


def test_before_its_engine_has_told_anything_a_clock_may_be_set_back():
    one = limit()
    one.set_back(-3600.0)
    one.observe(None, 40, 0, 100.0)
    assert one.requests == 40


def test_an_engine_that_never_told_its_state_stays_as_set():
    one = limit()
    one.observe(None, 40, 0, 100.0)
    assert (one.requests, one.tokens) == (40, 0)


def test_the_token_limit_follows_the_cache_and_the_pressure():
    one = limit()
    one.observe(CALM, 40, 0, 0.0)
    assert one.tokens == 9500
    one.observe(replace(CALM, kv_use=0.99), 40, 0, 3.0)
    assert one.tokens < 9000


def test_switched_off_it_is_a_constant():
    one = limit(enabled=False)
    one.observe(replace(CALM, kv_use=1.0), 40, 0, 0.0)
    assert (one.requests, one.tokens) == (40, 0)
