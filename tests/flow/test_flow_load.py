"""What the autoscaler is told of the flow."""

from __future__ import annotations

import pytest

from app.flow.config import FairnessPolicy, FlowConfig, Limits, TenantPolicy
from app.flow.controller import FlowController
from app.flow.load import MIN_SAMPLES
from app.flow.outcome import Outcome
from app.flow.ticket import EngineMetrics, Refused, ReplicaReport, Ticket, Usage

LIMITS = Limits(
    max_queued=100, max_queue_wait_s=60.0, requests_per_replica=2, lease_ttl_s=60.0, replica_ttl_s=5.0
)


def flow_with(*replicas: str, kv_use: float = 0.5) -> FlowController:
    flow = FlowController(LIMITS, FlowConfig())
    for replica_id in replicas:
        flow.report(ReplicaReport(replica_id, frozenset(), metrics=EngineMetrics(0, 0, kv_use)), 0.0)
    return flow


def submit(flow: FlowController, name: str, at_s: float, class_name: str = "standard") -> None:
    flow.submit(Ticket(name, 0, at_s, class_name=class_name, prompt_tokens=100), at_s)


class TestLoad:
    def test_of_an_idle_flow(self):
        load = flow_with("a", "b").load(60.0, 0.0)
        assert (load.queued, load.in_flight, load.running, load.starting) == (0, 0, 2, 0)
        assert (load.places_per_replica, load.need, load.idle) == (2.0, 0.0, True)
        assert (load.kv_use, load.ttft_over_slo, load.tpot_over_slo) == (0.5, None, None)

    @pytest.mark.parametrize("answers", [1, 2])
    def test_a_request_of_several_answers_takes_the_time_of_as_many_places(self, answers: int):
        flow = flow_with("a")
        for second in range(0, 400, 4):
            flow.submit(Ticket(f"q{second}", 0, float(second), answers=answers), float(second))
            flow.close(f"q{second}", Outcome.COMPLETED, second + 2.0, Usage(1, 1))
        load = flow.load(60.0, 398.0)
        assert load.service_s == pytest.approx(2.0 * answers, rel=0.05)
        # A request every four seconds, of two seconds, on an engine of two places.
        assert load.need == pytest.approx(0.25 * answers, rel=0.1)

    def test_what_waits_and_what_runs(self):
        flow = flow_with("a")
        for number in range(3):
            submit(flow, f"q{number}", 0.0, "batch")
        load = flow.load(60.0, 0.0)
        assert (load.in_flight, load.queued, load.idle) == (2, 1, False)
        assert [name for name, _ in load.drain_over_budget] == ["batch"]

    def test_without_an_engine_the_places_are_those_that_one_will_have(self):
        flow = flow_with()
        flow.capacity_starting("a", 60.0, 0.0)
        load = flow.load(60.0, 1.0)
        assert (load.running, load.starting, load.places_per_replica, load.kv_use) == (0, 1, 2.0, None)

    def test_a_start_that_takes_twice_as_long_as_others_may_never_come(self):
        flow = flow_with("a")
        for replica_id, ready_s in (("b", 60.0), ("c", 90.0)):
            flow.capacity_starting(replica_id, ready_s, 0.0)
        assert [flow.load(60.0, at_s).starting for at_s in (120.0, 121.0, 151.0)] == [2, 1, 0]

    @pytest.mark.parametrize(("cap", "helped"), [(1, 0), (2, 0), (3, 1), (100, 4)])
    def test_who_waits_for_the_end_of_his_own_tenants_requests_is_helped_by_no_engine(self, cap, helped):
        flow = FlowController(LIMITS, FlowConfig(tenants={"a": TenantPolicy(max_running=cap)}))
        flow.report(ReplicaReport("r", frozenset()), 0.0)
        for number in range(6 if cap > 1 else 5):
            flow.submit(Ticket(f"q{number}", 0, 0.0, "a", class_name="batch"), 0.0)
        load = flow.load(60.0, 0.0)
        assert flow.snapshot(0.0).queued == 4
        assert load.queued == helped
        assert (load.drain_s > 0.0) == bool(load.drain_over_budget) == (helped > 0)

    def test_where_no_tenants_cap_holds_anybody_back_all_that_waits_counts(self):
        capped = FlowConfig(
            tenants={"a": TenantPolicy(max_running=1)}, fairness=FairnessPolicy(enabled=False)
        )
        flow = FlowController(LIMITS, capped)
        flow.report(ReplicaReport("r", frozenset()), 0.0)
        for number in range(4):
            flow.submit(Ticket(f"q{number}", 0, 0.0, "a", class_name="batch"), 0.0)
        assert flow.load(60.0, 0.0).queued == flow.snapshot(0.0).queued > 0

    def test_who_waits_for_his_own_tenant_makes_the_wait_of_others_no_longer(self):
        drains_s = []
        for tenants in ("aab", "aaaaaab"):
            flow = FlowController(LIMITS, FlowConfig(tenants={"a": TenantPolicy(max_running=1)}))
            flow.report(ReplicaReport("r", frozenset()), 0.0)
            submit(flow, "other", 0.0, "batch")
            for number, tenant in enumerate(tenants):
                flow.submit(Ticket(f"q{number}", 0, 0.0, tenant, class_name="batch"), 0.0)
            load = flow.load(60.0, 0.0)
            assert load.queued == 1
            drains_s.append(load.drain_s)
        assert drains_s[0] == drains_s[1]

    def test_who_was_refused_asked_all_the_same(self):
        flow = flow_with("a")
        for number in range(100):
            submit(flow, f"q{number}", number / 10, "interactive")
        load = flow.load(60.0, 10.0)
        assert load.in_flight == 2
        assert load.offered_per_s == pytest.approx(10, rel=0.1)

    def test_a_burst_counts_over_the_time_that_its_class_may_take(self):
        rates = {}
        for name in ("interactive", "batch"):
            flow = flow_with("a")
            # Ten minutes of little, two seconds of much.
            for number in range(300):
                submit(flow, f"q{number}", 2.0 * number, name)
            for number in range(40):
                submit(flow, f"b{number}", 600.0 + number / 20, name)
            rates[name] = flow.load(60.0, 602.0).offered_per_s
        # 20 a second of interactive are 12.6 over its two seconds; 40 of batch are one more each second.
        assert rates["interactive"] == pytest.approx(13, rel=0.1)
        assert rates["batch"] == pytest.approx(1.2, rel=0.1)

    def test_what_a_tenant_may_not_send_asks_for_no_engine(self):
        flow = FlowController(LIMITS, FlowConfig())
        flow.report(ReplicaReport("a", frozenset()), 0.0)
        flow.submit(Ticket("huge", 0, 0.0, size_bytes=10**10), 0.0)
        assert flow.load(60.0, 0.0).offered_per_s == 0.0

    def test_answers_over_their_budgets(self):
        def answered(every_s: float) -> FlowController:
            """A twentieth of the budget to the first token, two tokens in 0.2 s, read slowly."""
            flow = flow_with("a")
            for number in range(MIN_SAMPLES):
                at_s = every_s * number
                flow.report(ReplicaReport("a", frozenset()), at_s)
                submit(flow, f"q{number}", at_s)
                flow.first_tokens([(f"q{number}", at_s + 0.5)], at_s + 0.5)
                flow.close(f"q{number}", Outcome.COMPLETED, at_s + 0.95, Usage(100, 3, 0.5, decode_s=0.2))
            return flow

        # Of the last minute there are too few.
        assert answered(10.0).load(60.0, 93.0).ttft_over_slo is None
        load = answered(1.0).load(60.0, 10.0)
        assert load.ttft_over_slo == pytest.approx(0.05)
        assert load.tpot_over_slo == pytest.approx(0.1 / 0.25)

    @pytest.mark.parametrize(("beside", "counts"), [(0, False), (1, True)])
    def test_slow_tokens_count_where_others_hold_places(self, beside: int, counts: bool):
        """An engine that is slow by itself asks for no others, without end."""
        flow = flow_with("a")
        for number in range(beside):
            submit(flow, f"b{number}", 0.0)
        for number in range(MIN_SAMPLES):
            submit(flow, f"q{number}", 0.0)
            flow.close(f"q{number}", Outcome.COMPLETED, 1.0, Usage(100, 3, 0.5, decode_s=0.8))
        load = flow.load(60.0, 1.0)
        assert load.tpot_over_slo == (pytest.approx(0.4 / 0.25) if counts else None)

    def test_one_token_has_no_pace(self):
        flow = flow_with("a")
        for number in range(MIN_SAMPLES):
            submit(flow, f"q{number}", 0.0)
            flow.first_tokens([(f"q{number}", 0.5)], 0.5)
            flow.close(f"q{number}", Outcome.COMPLETED, 0.9, Usage(100, 1, 0.5, decode_s=0.0))
        assert flow.load(60.0, 1.0).tpot_over_slo is None

    def test_a_refusal_for_a_wait_is_an_answer_that_late(self):
        flow = flow_with()
        flow.capacity_starting("a", 100.0, 0.0)
        for number in range(MIN_SAMPLES):
            submit(flow, f"q{number}", 0.0)
        # A hundred seconds of ten.
        assert flow.load(60.0, 0.0).ttft_over_slo == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(("prompt_tokens", "own_s", "over"), [(1500, 0.77, 0.7), (2500, 1.27, None)])
def test_what_a_prompt_takes_alone_asks_for_no_engine(prompt_tokens: int, own_s: float, over: float | None):
    """Of a class that promises two seconds, on an engine that computes 2,000 tokens in each."""
    flow = flow_with("a")
    flow._pool.pace.learnt_s = 0.0
    for number in range(2 * MIN_SAMPLES):
        name, at_s = f"q{number}", 2.0 * number
        # 1.4 s to the first token, of which it was on its way for what its prompt does not take.
        ticket = Ticket(name, 0, at_s + own_s - 1.4, class_name="interactive", prompt_tokens=prompt_tokens)
        flow.report(ReplicaReport("a", frozenset()), at_s)
        flow.submit(ticket, at_s)
        flow.first_tokens([(name, at_s + own_s)], at_s + own_s)
        flow.close(name, Outcome.COMPLETED, at_s + 1.5, Usage(prompt_tokens, 1))
    expected = None if over is None else pytest.approx(over, abs=0.01)
    assert flow.load(60.0, 4.0 * MIN_SAMPLES).ttft_over_slo == expected


def test_a_refusal_of_what_no_engine_could_do_in_time_asks_for_none():
    flow = flow_with("a")
    flow._pool.pace.learnt_s = 0.0
    tickets = [
        Ticket(f"q{number}", 0, 0.0, class_name="interactive", prompt_tokens=5000)
        for number in range(2 * MIN_SAMPLES)
    ]
    actions = [action for ticket in tickets for action in flow.submit(ticket, 0.0)]
    assert sum(isinstance(action, Refused) for action in actions) > MIN_SAMPLES
    assert flow.load(60.0, 0.0).ttft_over_slo is None


def test_first_tokens_are_judged_by_the_budget_of_the_class():
    """Who promises itself a hundredth of that makes nobody start engines."""
    flow = flow_with("a")
    for second in range(2 * MIN_SAMPLES):
        ticket = Ticket(f"q{second}", 0, float(second), class_name="interactive", ttft_budget_s=0.02)
        flow.report(ReplicaReport("a", frozenset()), float(second))
        flow.submit(ticket, float(second))
        flow.first_tokens([(ticket.ticket_id, second + 0.5)], second + 0.5)
        flow.close(ticket.ticket_id, Outcome.COMPLETED, second + 0.6, Usage(1, 1))
    assert flow.load(60.0, 2.0 * MIN_SAMPLES).ttft_over_slo == pytest.approx(0.25)
