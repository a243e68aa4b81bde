"""Who is there, who is on the way, and since when that is known."""

from __future__ import annotations

import pytest

from app.flow.config import FlowConfig, Limits
from app.flow.controller import FlowController
from app.flow.endings import Ended
from app.flow.outcome import Outcome
from app.flow.ticket import EngineMetrics, ReplicaReport, Ticket

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

    def test_what_is_learnt_of_its_pace_is_learnt(self):
        """What came before the first report says nothing of it; what comes now does."""
        flow = FlowController(LIMITS, FlowConfig())
        for at_s, steps in ((10_000.0, 0), (10_001.0, 100)):
            metrics = EngineMetrics(running=1, waiting=0, kv_use=0.0, steps=steps, prompt_tokens=10 * steps)
            flow.report(ReplicaReport("r", frozenset(), metrics=metrics), at_s)
        pace = flow._pool.pace
        assert pace.learnt
        flow.skip(-3600.0)
        assert pace.learnt_s == pytest.approx(6401.0)

    def test_a_first_token_was_as_long_ago(self):
        ended: list[Ended] = []
        flow = FlowController(LIMITS, FlowConfig(), on_end=ended.append)
        flow.tick(10_000.0)
        flow.report(ReplicaReport("s", frozenset({"of a scheduler before"})), 10_000.0)
        flow.report(ReplicaReport("r", frozenset()), 10_000.0)
        flow.submit(Ticket("a", 0, 10_000.0), 10_000.0)
        flow.first_tokens([("a", 10_000.5)], 10_000.5)
        flow.skip(-3600.0)
        flow.close("a", Outcome.COMPLETED, 6401.0)
        assert [one.ttft_s for one in ended] == [pytest.approx(0.5)]

    def test_a_jump_forward_is_no_time_in_which_engines_could_have_been_heard(self):
        flow = FlowController(LIMITS, FlowConfig())
        flow.tick(0.0)
        assert flow.submit(Ticket("a", 0, 0.1, class_name="batch"), 0.1) == []
        flow.skip(10.0)
        assert flow.young(10.1)
        assert flow.tick(10.1) == []

    def test_before_anybody_has_asked_it_is_as_new_as_before(self):
        flow = FlowController(LIMITS, FlowConfig())
        flow.skip(-3600.0)
        assert flow.young(0.0)
