"""Who is there, who is on the way, and since when that is known."""

from __future__ import annotations

import pytest

from app.flow.config import FlowConfig, Limits
from app.flow.controller import FlowController
from app.flow.outcome import Outcome
from app.flow.ticket import ReplicaReport, Ticket

LIMITS = Limits(
    max_queued=100, max_queue_wait_s=60.0, requests_per_replica=1, lease_ttl_s=600.0, replica_ttl_s=5.0
)


class TestLateStart:
    """It may come at any moment, or never: expected in as long again as it is late."""

    @pytest.mark.parametrize("late_s", [4.0, 40.0])
    def test_who_can_not_wait_so_long_is_refused_on_arrival_and_told_how_long(self, late_s):
        flow = FlowController(LIMITS, FlowConfig())
        flow.capacity_starting("r", 5.0, 0.0)
        now_s = 5.0 + late_s
        [refused] = flow.submit(Ticket("hasty", 0, now_s, class_name="interactive"), now_s)
        assert refused.outcome is Outcome.REJECTED_NO_ENGINE
        assert refused.predicted_wait_s == pytest.approx(late_s, abs=0.1)
        assert late_s <= refused.retry_after_s <= late_s + 5
        assert flow.submit(Ticket("patient", 0, now_s, class_name="batch"), now_s) == []

    def test_one_that_is_due_takes_a_moment(self):
        flow = FlowController(LIMITS, FlowConfig())
        flow.capacity_starting("r", 5.0, 0.0)
        assert flow.submit(Ticket("a", 0, 5.0, class_name="interactive"), 5.0) == []
        assert flow.predicted_ttft_s("a") == pytest.approx(1.0, abs=0.1)

    def test_it_shortens_a_wait_only_where_that_is_longer(self):
        waits_s = []
        for starts in ({}, {"s": 65.0}, {"s": 5.0}, {"s": 5.0, "t": 65.0}):
            flow = FlowController(LIMITS, FlowConfig())
            for replica_id, ready_s in starts.items():
                flow.capacity_starting(replica_id, ready_s, 0.0)
            flow.report(ReplicaReport("r", frozenset()), 65.0)
            for number in range(6):
                flow.submit(Ticket(f"t{number}", 0, 65.0, class_name="batch"), 65.0)
            waits_s.append(flow.predicted_ttft_s("t5"))
        without, due, late, both = waits_s
        assert due == both < late == without


class TestClockSetBack:
    def flow(self) -> FlowController:
        flow = FlowController(LIMITS, FlowConfig())
        flow.tick(10_000.0)
        flow.capacity_starting("r", 10_040.0, 10_020.0)
        flow.skip(-3600.0)
        return flow

    def test_who_is_old_stays_so(self):
        assert not self.flow().young(6420.0)

    def test_a_start_takes_no_longer(self):
        flow = self.flow()
        flow.submit(Ticket("a", 0, 6420.0, class_name="batch"), 6420.0)
        assert flow.predicted_ttft_s("a") == pytest.approx(20.0, abs=0.1)

    def test_before_anybody_has_asked_it_is_as_new_as_before(self):
        flow = FlowController(LIMITS, FlowConfig())
        flow.skip(-3600.0)
        assert flow.young(0.0)
