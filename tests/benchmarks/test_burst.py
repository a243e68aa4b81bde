"""A simulated burst of the overload benchmark's requests."""

from __future__ import annotations

from statistics import mean

from benchmarks.burst import burst

BUDGETS_S = {"interactive": 1.0, "standard": 5.0, "batch": 60.0}
RATE_PER_S = 20.0


def test_who_may_wait_for_a_minute_is_kept_of_a_burst_that_ends_before():
    kept = {
        name: mean(
            burst(name, 45.0, RATE_PER_S, BUDGETS_S, seed, replicas=2)["batch kept"] for seed in range(3)
        )
        for name in ("", "no-end")
    }
    assert kept[""] > kept["no-end"] + 0.05


def test_what_waits_lets_a_burst_of_more_urgent_requests_go_first():
    """One engine at twice what it can do; so few places that standard and batch leave as many free."""
    kept = {
        name: mean(
            burst(name, 45.0, RATE_PER_S / 2, BUDGETS_S, seed, replicas=1)["standard kept"]
            for seed in range(3)
        )
        for name in ("", "no-yield")
    }
    assert kept[""] > kept["no-yield"] + 0.03


def test_in_a_burst_who_is_behind_or_costs_little_finds_the_place_that_falls_free_next():
    kept = {
        name: mean(
            burst(name, 45.0, RATE_PER_S / 2, BUDGETS_S, seed, replicas=1)["standard kept"]
            for seed in range(6)
        )
        for name in ("", "no-burst")
    }
    assert kept[""] > kept["no-burst"] + 0.015
