"""A fleet of any size as a fluid: requests a second in, so many a second out, what waits too long is lost.

Coarse where `scaling.py` is exact: all requests are alike, of one class with one budget, first come first
served, and an engine works at one rate whatever its batch. It shows what a thousand engines do, for which the
exact simulation is too slow.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.flow.autoscale import Load
from app.flow.estimate import DecayedRate, RunningMean
from placement.simulation.scaling import FIRST_START_S, START_SMOOTHING, Scaler, View


@dataclass(frozen=True, slots=True)
class Fleet:
    """Engines that are all alike, and what is promised."""

    per_s: float
    places: int
    budget_s: float = 10.0
    start_s: tuple[float, float] = (30.0, 180.0)
    seed: int = 0


@dataclass(slots=True)
class Outcome:
    """Requests and replica-seconds, from the end of the warm-up; each second's target."""

    offered: float = 0.0
    kept: float = 0.0
    replica_s: float = 0.0
    targets: list[int] = field(default_factory=list)


def run(arrivals: Sequence[float], fleet: Fleet, scaler: Scaler, replicas: int, warm_up_s: int) -> Outcome:
    """`arrivals[s]`: requests that come in second s."""
    uniform = random.Random(f"fluid {fleet.seed}").uniform
    mean_start_s = RunningMean(FIRST_START_S, START_SMOOTHING)
    rate = DecayedRate(fleet.budget_s)
    starting: list[tuple[float, float]] = []
    running, target, queue = replicas, replicas, 0.0
    outcome = Outcome()
    for second, arrived in enumerate(arrivals):
        for ready_s, asked_s in [one for one in starting if one[0] <= second]:
            starting.remove((ready_s, asked_s))
            mean_start_s.add(second - asked_s)
            running += 1
        rate.add(arrived, second)
        most = running * fleet.per_s
        done = min(queue + arrived, most)
        queue += arrived - done
        # Who can't be served within the budget is refused.
        lost = max(0.0, queue - most * fleet.budget_s)
        queue -= lost
        wait_s = queue / most if most else fleet.budget_s
        busy = done / most if most else 0.0
        load = Load(
            queued=round(queue),
            in_flight=round(busy * running * fleet.places),
            offered_per_s=rate.per_s(second + 1.0),
            service_s=fleet.places / fleet.per_s,
            places_per_replica=fleet.places,
            running=running,
            starting=len(starting),
            start_s=mean_start_s.value,
            drain_s=wait_s,
            ttft_over_slo=(wait_s + lost) / fleet.budget_s,
        )
        # A busy engine's first token and pace, as shares of their budgets, rise to a half.
        answer = (max(wait_s / fleet.budget_s, busy / 2), busy / 2)
        late = (2.0,) if lost > 0.1 * arrived else ()
        target = scaler.target(View(load, target, (answer,), late), float(second))
        while running + len(starting) < target:
            starting.append((second + uniform(*fleet.start_s), float(second)))
        while running + len(starting) > target and starting:
            starting.pop()
        running = min(running, target)
        outcome.targets.append(target)
        if second >= warm_up_s:
            outcome.offered += arrived
            outcome.kept += arrived - lost
            outcome.replica_s += running + len(starting)
    return outcome
