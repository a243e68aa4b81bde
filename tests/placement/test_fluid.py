"""Fleets as a fluid."""

from __future__ import annotations

import pytest

from app.flow.autoscale import ScalePolicy
from placement.simulation.fluid import Fleet, run
from placement.simulation.scaling import Fixed, Ours

FLEET = Fleet(per_s=2.0, places=16, start_s=(60.0, 60.0))


def test_what_the_engines_can_do_is_kept_and_what_they_cost_is_counted():
    outcome = run([18.0] * 600, FLEET, Fixed(), 10, 100)
    assert outcome.kept == outcome.offered == 18 * 500
    assert outcome.replica_s == 10 * 500


def test_what_would_wait_longer_than_the_budget_is_lost():
    outcome = run([30.0] * 1000, FLEET, Fixed(), 10, 100)
    assert outcome.kept / outcome.offered == pytest.approx(20 / 30)


def test_a_burst_within_the_budget_is_absorbed():
    arrivals = [10.0] * 200
    arrivals[100] = 200.0
    assert run(arrivals, FLEET, Fixed(), 10, 0).kept == sum(arrivals)


def test_more_engines_come_after_their_start_and_not_before():
    arrivals = [10.0] * 300 + [40.0] * 900
    outcome = run(arrivals, FLEET, Ours(ScalePolicy(max_replicas=100)), 10, 0)
    # 10 / 2 / 0.85: there are enough.
    assert max(outcome.targets[:300]) == 10
    # 40 / 2 / 0.85
    assert outcome.targets[-1] >= 24
    lost = outcome.offered - outcome.kept
    assert 60 * 20 - 200 <= lost < 300 * 20


def test_one_seed_one_result():
    fleet = Fleet(2.0, 16, seed=3)
    runs = [run([5.0, 60.0] * 400, fleet, Ours(ScalePolicy(max_replicas=100)), 3, 0) for _ in range(2)]
    assert runs[0] == runs[1]
