"""A simulated burst of the overload benchmark's requests."""

from __future__ import annotations

from statistics import mean

from benchmarks.burst import burst

BUDGETS_S = {"interactive": 1.0, "standard": 5.0, "batch": 60.0}
# Of each engine.
RATE_PER_S = 10.0


def kept(class_name: str, ablation: str, replicas: int, seeds: int) -> float:
    """At about twice what so many engines can do."""
    rate_per_s = RATE_PER_S * replicas
    runs = [burst(ablation, 45.0, rate_per_s, BUDGETS_S, seed, replicas) for seed in range(seeds)]
    return mean(one[f"{class_name} kept"] for one in runs)


def test_who_may_wait_for_a_minute_is_kept_of_a_burst_that_ends_before():
    assert kept("batch", "", 2, seeds=3) > kept("batch", "no-end", 2, seeds=3) + 0.05


def test_what_waits_lets_a_burst_of_more_urgent_requests_go_first():
    """One engine: so few places that standard and batch leave as many free."""
    assert kept("standard", "", 1, seeds=3) > kept("standard", "no-yield", 1, seeds=3) + 0.03


def test_in_a_burst_who_is_behind_or_costs_little_finds_the_place_that_falls_free_next():
    assert kept("standard", "", 1, seeds=6) > kept("standard", "no-burst", 1, seeds=6) + 0.015
