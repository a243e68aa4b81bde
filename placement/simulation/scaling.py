"""Replicas that come and go: the same simulation with an autoscaler, starts that take time, and drains.

Every autoscaler rules the same engines behind the same decision core; only the number of replicas differs. A
replica costs from the moment it is asked for until it has drained.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from app.flow.autoscale import Autoscaler, Load, ScalePolicy
from app.flow.controller import FlowController
from app.flow.estimate import RunningMean
from app.flow.ticket import Refused, ReplicaReport
from placement.simulation.engine import EngineShape, SimulatedEngine
from placement.simulation.simulator import Record, Setup, Simulator
from placement.simulation.summary import READING_TPOT_S
from placement.simulation.workload import Request

# How often an autoscaler is asked; Serve's control loop is faster, and decides on figures that are older.
DECIDE_S = 1.0
# As the scheduler does (app/serving/scheduler.py).
START_SMOOTHING = 0.3
FIRST_START_S = 120.0
# A change of direction within this time is an oscillation.
OSCILLATION_S = 600.0


@dataclass(frozen=True, slots=True)
class View:
    """What an autoscaler may look at; `answers` and `refused` are those of the last second.

    `answers`: (time to first token / budget, pace / budget or None); `refused`: predicted wait / budget.
    """

    load: Load
    target: int
    answers: tuple[tuple[float, float | None], ...] = ()
    refused: tuple[float, ...] = ()


class Scaler(Protocol):
    def target(self, view: View, now_s: float) -> int: ...


class Ours:
    """The application's own."""

    def __init__(self, policy: ScalePolicy) -> None:
        self._autoscaler = Autoscaler(policy)

    def target(self, view: View, now_s: float) -> int:
        return self._autoscaler.decide(view.load, now_s).target


class Fixed:
    """As many as there were."""

    def target(self, view: View, now_s: float) -> int:
        return view.target


@dataclass(frozen=True, slots=True)
class Scaling:
    """Bounds and starts of the replicas."""

    engine: EngineShape
    replicas: int
    max_replicas: int = 1000
    # A start takes a time that is drawn from this range.
    start_s: tuple[float, float] = (30.0, 180.0)
    seed: int = 0
    # Budgets, for the figures that peers look at.
    ttft_budget_s: dict[str, float] = field(default_factory=dict)
    tpot_budget_s: float = READING_TPOT_S
    # Hours and changes before this are not counted.
    count_from_s: float = 0.0


class ScaledSimulator(Simulator):
    """Runs one workload under one autoscaler."""

    def __init__(self, flow: FlowController, scaler: Scaler, scaling: Scaling) -> None:
        super().__init__(flow, Setup(scaling.engine, scaling.replicas))
        self._flow = flow
        self._scaler = scaler
        self._scaling = scaling
        self._uniform = random.Random(f"starts {scaling.seed}").uniform
        self._target = scaling.replicas
        self._count = scaling.replicas
        self._starting: dict[str, float] = {}
        self._draining: set[str] = set()
        self._start_s = RunningMean(FIRST_START_S, START_SMOOTHING)
        self._answers: list[tuple[float, float | None]] = []
        self._late: list[float] = []
        self._paid_s = 0.0
        self._paid_until_s = scaling.count_from_s
        # When the target changed, and to what.
        self.changes: list[tuple[float, int]] = [(0.0, scaling.replicas)]

    def run(self, requests: Sequence[Request]) -> list[Record]:
        self._at(DECIDE_S, "scale", None)
        records = super().run(requests)
        self._pay()
        return records

    @property
    def replica_hours(self) -> float:
        return self._paid_s / 3600.0

    @property
    def oscillations(self) -> int:
        """Changes of direction within ten minutes: up, then down (or the other way) before the load could."""
        steps = [(b[0], b[1] - a[1]) for a, b in pairwise(self.changes) if b[0] >= self._scaling.count_from_s]
        turns = pairwise(steps)
        return sum(a[1] * b[1] < 0 and b[0] - a[0] <= OSCILLATION_S for a, b in turns)

    def _scale(self, _: object) -> None:
        load = self._flow.load(self._start_s.value, self.now_s)
        view = View(load, self._target, tuple(self._answers), tuple(self._late))
        self._answers.clear()
        self._late.clear()
        target = min(self._scaler.target(view, self.now_s), self._scaling.max_replicas)
        if target != self._target:
            self._pay()
            self._target = target
            self.changes.append((self.now_s, target))
            self._reach(target)
        self._at(self.now_s + DECIDE_S, "scale", None)

    def _reach(self, target: int) -> None:
        serving = [id_ for id_ in self._engines if id_ not in self._draining]
        for _ in range(target - len(serving) - len(self._starting)):
            self._begin_start()
        # As Serve: what has not started yet goes first, then the newest.
        surplus = len(serving) + len(self._starting) - target
        for replica_id in [*reversed(self._starting), *reversed(serving)][: max(0, surplus)]:
            self._stop(replica_id)

    def _begin_start(self) -> None:
        replica_id = f"r{self._count}"
        self._count += 1
        self._starting[replica_id] = self.now_s
        self._flow.capacity_starting(replica_id, self.now_s + self._start_s.value, self.now_s)
        self._at(self.now_s + self._uniform(*self._scaling.start_s), "started", replica_id)

    def _started(self, replica_id: object) -> None:
        name = str(replica_id)
        if name in self._starting:
            self._start_s.add(self.now_s - self._starting.pop(name))
            self._engines[name] = SimulatedEngine(self._scaling.engine)
            self._hear(name)

    def _stop(self, replica_id: str) -> None:
        if self._starting.pop(replica_id, None) is not None:
            self._do(self._flow.replica_gone(replica_id, self.now_s))
            return
        self._draining.add(replica_id)
        self._do(self._policy.report(self._report(replica_id), self.now_s))
        self._end_drained(replica_id)

    def _report(self, replica_id: object) -> ReplicaReport:
        report = super()._report(replica_id)
        draining = report.replica_id in self._draining
        return ReplicaReport(report.replica_id, report.live_leases, draining, report.metrics)

    def _hear(self, replica_id: object) -> None:
        if replica_id in self._engines:
            super()._hear(replica_id)

    def _step(self, replica_id: object) -> None:
        super()._step(replica_id)
        self._end_drained(str(replica_id))

    def _end_drained(self, replica_id: str) -> None:
        if replica_id in self._draining and not self._engines[replica_id].busy:
            self._pay()
            self._draining.discard(replica_id)
            del self._engines[replica_id]
            self._do(self._flow.replica_gone(replica_id, self.now_s))

    def _complete(self, request: Request) -> None:
        super()._complete(request)
        record, scaling = self.records[request.request_id], self._scaling
        if record.ttft_s is not None and scaling.ttft_budget_s:
            pace = None if record.tpot_s is None else record.tpot_s / scaling.tpot_budget_s
            self._answers.append((record.ttft_s / scaling.ttft_budget_s[request.class_name], pace))

    def _refused(self, action: Refused) -> None:
        super()._refused(action)
        budget_s = self._scaling.ttft_budget_s.get(self.records[action.ticket_id].request.class_name)
        if budget_s is not None and action.predicted_wait_s is not None:
            self._late.append(action.predicted_wait_s / budget_s)

    def _pay(self) -> None:
        count = len(self._engines) + len(self._starting)
        self._paid_s += count * max(0.0, self.now_s - self._paid_until_s)
        self._paid_until_s = max(self._paid_until_s, self.now_s)
