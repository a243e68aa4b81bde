"""The simulation with engines that come and go."""

from __future__ import annotations

import pytest

from app.flow.autoscale import ScalePolicy
from app.flow.outcome import Outcome
from placement.simulation.engine import EngineShape, LinearStep
from placement.simulation.experiment import flow_controller
from placement.simulation.scaling import Fixed, Ours, ScaledSimulator, Scaling, View
from placement.simulation.workload import Mix, Request, poisson, spread

# Eight places; a request of 50 tokens takes about a second.
ENGINE = EngineShape(LinearStep(0.02, 1e-6, 1e-5, 0.0), max_num_seqs=8)


def at_rate(per_s: float, seconds: float, begin_s: float = 0.0) -> list[Request]:
    """Evenly, all of one length."""
    return [
        Request(f"q{begin_s}-{number}", begin_s + number / per_s, 100, 50, class_name="batch")
        for number in range(round(per_s * seconds))
    ]


class Planned:
    """So many from a time on."""

    def __init__(self, *plan: tuple[float, int]) -> None:
        self.plan = plan

    def target(self, view: View, now_s: float) -> int:
        return [count for at_s, count in self.plan if now_s >= at_s][-1]


def simulator(scaler, replicas: int = 1, start_s: float = 30.0) -> ScaledSimulator:
    scaling = Scaling(ENGINE, replicas, start_s=(start_s, start_s))
    return ScaledSimulator(flow_controller(ENGINE, 0), scaler, scaling)


def test_a_fixed_number_costs_its_number():
    run = simulator(Fixed(), replicas=3)
    run.run(at_rate(1.0, 360))
    assert run.replica_hours == pytest.approx(3 * run.now_s / 3600)
    assert run.oscillations == 0


def test_an_engine_costs_from_the_moment_it_is_asked_for_and_serves_only_when_it_has_started():
    run = simulator(Planned((0, 1), (100, 2)), start_s=60.0)
    seen = {}
    inner = run._scaler.target

    def spy(view: View, now_s: float) -> int:
        seen[round(now_s)] = (view.load.running, view.load.starting)
        return inner(view, now_s)

    run._scaler.target = spy
    run.run(at_rate(1.0, 200))
    assert (seen[100], seen[101], seen[159], seen[162]) == ((1, 0), (1, 1), (1, 1), (2, 0))
    assert run.replica_hours == pytest.approx((run.now_s + run.now_s - 100) / 3600, rel=0.01)


def test_an_engine_that_is_taken_away_finishes_what_it_has():
    run = simulator(Planned((0, 2), (50, 1)), replicas=2)
    records = run.run(at_rate(4.0, 100))
    assert {record.outcome for record in records} == {Outcome.COMPLETED}
    assert len(run._engines) == 1


def test_a_start_that_is_not_wanted_any_more_is_given_up():
    run = simulator(Planned((0, 1), (20, 3), (30, 1)), start_s=60.0)
    run.run(at_rate(1.0, 100))
    assert len(run._engines) == 1
    assert run.oscillations == 1


def test_one_seed_one_result():
    figures = set()
    for _ in range(2):
        scaling = Scaling(ENGINE, 1, seed=7)
        run = ScaledSimulator(flow_controller(ENGINE, 7), Ours(ScalePolicy(max_replicas=9)), scaling)
        run.run(spread(poisson(1500, 5.0, 7), Mix(), 7))
        figures.add((run.replica_hours, tuple(run.changes)))
    assert len(figures) == 1


@pytest.mark.parametrize("per_s", [2.0, 8.0])
def test_a_constant_load_with_all_its_chance_brings_about_one_change_in_ten_minutes_at_most(per_s):
    """After the first ten minutes, in which it learns how many it needs."""
    run = simulator(Ours(ScalePolicy(max_replicas=9, downscale_delay_s=300.0)), replicas=3)
    requests = spread(poisson(round(per_s * 1500), per_s, 1), Mix(), 1)
    run.run(requests)
    late = [at_s for at_s, _ in run.changes if at_s > 600]
    assert all(sum(at_s <= other < at_s + 600 for other in late) <= 1 for at_s in late)
