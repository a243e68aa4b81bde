"""Five times the capacity, from clients that come back at once whatever they are told; then the usual load.

The decision core over modelled engines: no clock but the simulation's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.flow.config import FlowConfig, Limits, default_classes
from app.flow.controller import FlowController
from app.flow.ticket import Refused
from placement.simulation.engine import ENGINES
from placement.simulation.simulator import Record, Setup, Simulator, capacity_per_s
from placement.simulation.summary import promise_of
from placement.simulation.workload import Mix, Request, poisson, spread

SHAPE = ENGINES["gpu-like"]
REPLICAS = 2
SEED = 7
# At capacity, then the storm, then a load that the engines can bear.
CALM_S, STORM_S, AFTER_S = 60.0, 120.0, 120.0
STORM, AFTER = 5.0, 0.7
# A refused client comes back after it, so often.
IMPATIENCE_S, RETURNS = 0.5, 20
# The longest budget of a class: whoever was let in before has ended by then.
DRAIN_S = 60.0
PROMISE = promise_of(default_classes())


class Impatient(Simulator):
    """Clients that ignore `Retry-After` and `x-should-retry`."""

    def _refused(self, action: Refused) -> None:
        super()._refused(action)
        request = self.records[action.ticket_id].request
        if request.request_id.count("'") < RETURNS:
            self._return(request, self.now_s + IMPATIENCE_S)


def phase(rate_per_s: float, start_s: float, duration_s: float, name: str) -> list[Request]:
    requests = poisson(int(rate_per_s * duration_s), rate_per_s, SEED)
    return [
        replace(one, request_id=f"{name}-{one.request_id}", arrived_s=start_s + one.arrived_s)
        for one in requests
    ]


@pytest.fixture(scope="module")
def records() -> Sequence[Record]:
    capacity = REPLICAS * capacity_per_s(SHAPE, poisson(2000, 1.0, SEED))
    requests = phase(capacity, 0.0, CALM_S, "calm")
    requests += phase(STORM * capacity, CALM_S, STORM_S, "storm")
    requests += phase(AFTER * capacity, CALM_S + STORM_S, AFTER_S, "after")
    requests = spread(sorted(requests, key=lambda one: one.arrived_s), Mix(), SEED)
    limits = Limits(512, 60.0, SHAPE.max_num_seqs, 1e9, 1e9)
    policy = FlowController(limits, FlowConfig(), lambda: 0.5)
    return Impatient(policy, Setup(SHAPE, REPLICAS)).run(requests)


def kept_per_s(records: Sequence[Record], start_s: float, end_s: float) -> float:
    """Requests that arrived in the time and had what their class promises, whichever return it was."""
    kept = [one for one in records if start_s <= one.request.arrived_s < end_s and PROMISE.kept(one)]
    return len(kept) / (end_s - start_s)


def test_during_the_storm_the_engines_do_as_much_good_work_as_at_capacity(records):
    # The engines fill in the first seconds of each phase.
    calm = kept_per_s(records, 10.0, CALM_S)
    storm = kept_per_s(records, CALM_S + 10.0, CALM_S + STORM_S)
    print(f"kept a second: {calm:.2f} at capacity, {storm:.2f} in the storm")
    assert storm >= 0.95 * calm


def test_after_the_storm_and_a_drain_every_promise_is_kept_as_before(records):
    start_s = CALM_S + STORM_S + DRAIN_S
    after = [one for one in records if one.request.arrived_s >= start_s]
    share = sum(PROMISE.kept(one) for one in after) / len(after)
    print(f"kept after the storm: {share:.3f} of {len(after)}")
    assert share >= 0.99


def test_the_storm_reaches_no_engine(records):
    """A refused return costs the scheduler a decision, and the engines nothing."""
    refused = [one for one in records if one.finished_s is None]
    assert len(refused) > 5 * sum(one.finished_s is not None for one in records)
    # But for those that were on an engine and gave way to something urgent.
    assert all(one.granted_s is None for one in refused if not one.revokes)
