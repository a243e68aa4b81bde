"""What is let in, what is refused and when it may come back; seen through the controller."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace

import pytest

from app.flow.classes import ClassIndex
from app.flow.config import (
    AdmissionPolicy,
    ClassPolicy,
    FairnessPolicy,
    FlowConfig,
    LimitPolicy,
    Limits,
    PreemptPolicy,
    RoutePolicy,
    TenantPolicy,
)
from app.flow.controller import FlowController
from app.flow.endings import Ended
from app.flow.outcome import Outcome
from app.flow.promises import INITIAL_RETURN_SHARE, SPARE_PROMISES, PromiseBook
from app.flow.replicas import START_PATIENCE_S
from app.flow.ticket import EngineMetrics, Granted, Lease, Refused, ReplicaReport, Revoke, Ticket, Usage

LIMITS = Limits(
    max_queued=100,
    max_queue_wait_s=60.0,
    requests_per_replica=1,
    lease_ttl_s=1e6,
    replica_ttl_s=1e6,
)
CONFIG = FlowConfig()


def controller(config: FlowConfig = CONFIG, limits: Limits = LIMITS, replicas: str = "r") -> FlowController:
    flow = FlowController(limits, config, lambda: 0.0)
    flow.tick(0.0)
    for replica_id in replicas:
        flow.report(ReplicaReport(replica_id, frozenset()), 0.0)
    return flow


def submit(flow: FlowController, name: str, at_s: float = 0.0, **fields):
    return flow.submit(Ticket(name, 0, at_s, **{"class_name": "interactive", **fields}), at_s)


def only(actions):
    (action,) = actions
    return action


def test_the_core_has_defaults_for_all_that_is_not_a_deployments():
    flow = FlowController(LIMITS)
    flow.report(ReplicaReport("r", frozenset()), 0.0)
    assert isinstance(only(flow.submit(Ticket("a", 0, 0.0), 0.0)), Granted)


def test_an_idle_engine_takes_what_looks_too_late():
    assert isinstance(only(submit(controller(), "a", prompt_tokens=9000, ttft_budget_s=0.1)), Granted)


def test_what_would_be_late_is_refused_on_arrival_with_the_wait_and_a_time_to_return():
    flow = controller()
    for name in ("running", "waiting"):
        submit(flow, name)
    refused = only(submit(flow, "late", prompt_tokens=1000))
    assert refused.outcome is Outcome.REJECTED_DEADLINE
    assert refused.predicted_wait_s >= 2.0
    assert refused.promised
    assert refused.retry_after_s >= 1


def test_a_client_that_returns_as_told_is_let_in_before_the_others():
    config = replace(CONFIG, admission=AdmissionPolicy(initial_service_s=0.9))
    flow = controller(config)
    assert isinstance(only(submit(flow, "running")), Granted)
    submit(flow, "waiting")
    refused = only(submit(flow, "late", fingerprint="body", prompt_tokens=1000))
    assert refused.promised
    back_s = float(refused.retry_after_s)
    flow.close("waiting", Outcome.CANCELLED, back_s)
    submit(flow, "other", back_s)
    stranger = only(submit(flow, "stranger", back_s, fingerprint="else", prompt_tokens=1000))
    assert stranger.outcome is Outcome.REJECTED_DEADLINE
    assert submit(flow, "again", back_s, fingerprint="body", prompt_tokens=1000) == []
    granted = only(flow.close("running", Outcome.COMPLETED, back_s + 0.5))
    assert granted.lease.ticket_id == "again"


def test_without_promises_no_time_is_named():
    flow = controller(replace(CONFIG, admission=AdmissionPolicy(promises=False)))
    for name in ("running", "waiting"):
        submit(flow, name)
    refused = only(submit(flow, "late", prompt_tokens=1000))
    assert not refused.promised
    assert refused.retry_after_s is None


def test_a_request_can_tighten_its_classes_promise_but_not_loosen_it():
    flow = controller()
    submit(flow, "running")
    assert only(submit(flow, "tight", ttft_budget_s=0.5)).outcome is Outcome.REJECTED_DEADLINE
    submit(flow, "waiting")
    assert only(submit(flow, "loose", ttft_budget_s=500.0)).outcome is Outcome.REJECTED_DEADLINE


def test_the_end_to_end_deadline_is_checked_on_arrival_and_again_at_dispatch():
    flow = controller()
    metrics = EngineMetrics(running=1, waiting=0, kv_use=0.1, itl_s=0.1)
    flow.report(ReplicaReport("r", frozenset(), metrics=metrics), 0.0)
    submit(flow, "running")
    refused = only(submit(flow, "late", class_name="batch", max_output_tokens=400, deadline_s=21.0))
    assert refused.outcome is Outcome.REJECTED_DEADLINE
    assert submit(flow, "fine", class_name="batch", max_output_tokens=10, deadline_s=30.0) == []
    evicted = only(flow.close("running", Outcome.COMPLETED, 29.5))
    assert (evicted.ticket_id, evicted.outcome) == ("fine", Outcome.EVICTED_DEADLINE)


def test_several_answers_are_given_at_a_time_so_each_has_its_part_of_the_tokens_to_make():
    flow = controller()
    metrics = EngineMetrics(running=1, waiting=0, kv_use=0.1, itl_s=0.1)
    flow.report(ReplicaReport("r", frozenset(), metrics=metrics), 0.0)
    submit(flow, "running")
    fields = {"class_name": "batch", "max_output_tokens": 400, "deadline_s": 21.0}
    assert only(submit(flow, "one", **fields)).outcome is Outcome.REJECTED_DEADLINE
    assert submit(flow, "four", answers=4, **fields) == []


@pytest.mark.parametrize(("overload_s", "least", "most"), [(30.0, 30, 40), (math.inf, 1, 10)])
def test_who_may_wait_long_is_let_in_as_if_the_overload_ends_meanwhile(overload_s, least, most):
    """One place; each second an urgent request takes and leaves it. Batch may wait for a minute."""
    flow = controller(replace(CONFIG, admission=replace(CONFIG.admission, overload_s=overload_s)))
    for second in range(20):
        submit(flow, f"u{second}", float(second))
        flow.close(f"u{second}", Outcome.COMPLETED, second + 0.99, Usage(1, 1))
    submit(flow, "last", 20.0)
    actions = [submit(flow, f"b{number}", 20.0, class_name="batch") for number in range(60)]
    assert least <= sum(not refused for refused in actions) <= most


def test_a_deadline_that_still_holds_is_dispatched():
    config = replace(CONFIG, classes=(ClassPolicy("standard", 0.0, 0.0, 30.0, deadline_s=60.0),))
    flow = controller(config)
    for name in ("running", "waiting"):
        submit(flow, name, deadline_s=50.0, max_output_tokens=10)
    assert only(flow.close("running", Outcome.COMPLETED, 1.0)).lease.ticket_id == "waiting"


def test_expired_work_never_reaches_an_engine():
    flow = controller()
    for name in ("running", "waiting"):
        submit(flow, name)
    evicted = only(flow.close("running", Outcome.COMPLETED, 3.0))
    assert (evicted.ticket_id, evicted.outcome) == ("waiting", Outcome.EVICTED_DEADLINE)


def test_switched_off_admission_lets_everything_wait_to_the_longest():
    flow = controller(replace(CONFIG, admission=AdmissionPolicy(enabled=False)))
    for number in range(10):
        submit(flow, f"t{number}", deadline_s=1.0)
    assert flow.snapshot(0.0).queued == 9
    assert flow.snapshot(0.0).drain_s > 5.0
    assert only(flow.close("t0", Outcome.COMPLETED, 50.0)).lease.ticket_id == "t1"


def test_caps_and_rates_refuse_before_the_deadline_is_asked_for():
    config = replace(CONFIG, tenants={"a": TenantPolicy(requests_per_minute=2, max_queued=1)})
    flow = controller(config)
    batch = {"tenant": "a", "class_name": "batch"}
    submit(flow, "running", **batch)
    submit(flow, "waiting", **batch)
    refused = only(submit(flow, "third", **batch))
    assert (refused.outcome, refused.retry_after_s) == (Outcome.REJECTED_REQUEST_RATE, 30)
    assert only(submit(flow, "later", 60.0, **batch)).outcome is Outcome.REJECTED_TENANT_QUEUED
    assert [one.limit for one in flow.rate_limits("a", 60.0)] == [2, None]


@pytest.mark.parametrize(
    ("outcome", "usage"),
    [
        pytest.param(Outcome.ENGINE_REFUSED, Usage(0, 0), id="the engine refuses it"),
        pytest.param(Outcome.COMPLETED, Usage(0, 0), id="tokens are counted"),
    ],
)
def test_what_no_model_computed_says_nothing_of_the_engines(outcome, usage):
    flow = controller()
    for number in range(50):
        submit(flow, f"good{number}", at_s=10.0 * number)
        flow.close(f"good{number}", Outcome.COMPLETED, 10.0 * number + 5.0, Usage(100, 100, ttft_s=0.2))
    rate_per_s, load = flow._predictor.total_rate_per_s(), flow.load(60.0, 600.0)
    for number in range(50):
        submit(flow, f"none{number}", at_s=600.0)
        flow.close(f"none{number}", outcome, 600.01, usage)
    assert flow._predictor.total_rate_per_s() == rate_per_s
    assert flow.load(60.0, 600.0).service_s == load.service_s


def test_tokens_a_minute_are_trued_up_at_the_end():
    config = replace(CONFIG, tenants={"a": TenantPolicy(tokens_per_minute=1000)})
    flow = controller(config)
    submit(flow, "t", tenant="a", prompt_tokens=100, max_output_tokens=500)
    assert flow.rate_limits("a", 0.0)[1].remaining == 400
    flow.close("t", Outcome.COMPLETED, 0.0, Usage(100, 50, ttft_s=0.2))
    assert flow.rate_limits("a", 0.0)[1].remaining == 850


@pytest.mark.parametrize(
    ("usage", "outcome", "left"),
    [
        pytest.param(Usage(100, 700, ttft_s=0.2), Outcome.COMPLETED, 200, id="an output that nobody bounded"),
        pytest.param(Usage(250, 10, ttft_s=0.2), Outcome.COMPLETED, 740, id="tools and a template"),
        pytest.param(Usage(0, 0), Outcome.COMPLETED, 900, id="a prompt that the engine did not count"),
        pytest.param(None, Outcome.CANCELLED, 870, id="as far as it is known"),
        pytest.param(None, Outcome.COMPLETED, 700, id="nothing was said"),
    ],
)
def test_tokens_a_minute_are_what_was_used(usage: Usage | None, outcome: Outcome, left: int):
    config = replace(CONFIG, tenants={"a": TenantPolicy(tokens_per_minute=1000)})
    flow = controller(config)
    submit(flow, "t", tenant="a", prompt_tokens=100)
    flow.progress("t", 30)
    flow.close("t", outcome, 0.0, usage)
    assert flow.rate_limits("a", 0.0)[1].remaining == left


def test_outputs_without_a_bound_take_of_the_tokens_a_minute_what_is_expected_of_them():
    """Else all of a burst pass, and their outputs lock the tenant out for many minutes."""
    config = replace(CONFIG, tenants={"a": TenantPolicy(tokens_per_minute=10_000)})
    flow = controller(config, replace(LIMITS, requests_per_replica=1000))
    for round_, expected in enumerate([200, 400]):
        at_s = 600.0 * round_
        names = [f"{round_}.{number}" for number in range(100)]
        let_in = [name for name in names if isinstance(only(submit(flow, name, at_s, tenant="a")), Granted)]
        assert len(let_in) == 10_000 // expected
        refused = only(submit(flow, "late", at_s, tenant="a"))
        assert refused.outcome is Outcome.REJECTED_TOKEN_RATE
        # Learnt meanwhile, as the first of them end; each gives back what it has taken itself.
        for name in let_in:
            flow.close(name, Outcome.COMPLETED, at_s, Usage(0, 400))
        limit = flow.rate_limits("a", at_s)[1]
        assert limit.reset_s == pytest.approx(60.0 * 400 * len(let_in) / 10_000)


def test_what_left_the_queue_gives_back_what_was_expected_of_it_as_it_came():
    config = replace(CONFIG, tenants={"a": TenantPolicy(tokens_per_minute=1000)})
    flow = controller(config)
    submit(flow, "t", tenant="a", prompt_tokens=100)
    assert submit(flow, "waits", tenant="a", prompt_tokens=100) == []
    assert flow.rate_limits("a", 0.0)[1].remaining == 400
    flow.progress("t", 1)
    flow.first_tokens([("t", 0.1)], 0.1)
    flow._predictor.output(flow._tenants.get("a", 0.0), bounded(0), 900)
    flow.close("waits", Outcome.CANCELLED, 0.0)
    assert flow.rate_limits("a", 0.0)[1].remaining == 700


def test_what_moves_to_another_engine_pays_its_rates_once():
    config = replace(CONFIG, tenants={"a": TenantPolicy(tokens_per_minute=1000, requests_per_minute=1)})
    flow = controller(config)
    submit(flow, "t", tenant="a", prompt_tokens=600, max_output_tokens=300)
    flow.close("t", Outcome.FAILED, 0.0)
    again = only(submit(flow, "t-1", tenant="a", prompt_tokens=600, max_output_tokens=300, moved=True))
    assert isinstance(again, Granted)
    assert flow.rate_limits("a", 0.0)[1].remaining == 100
    flow.close("t-1", Outcome.COMPLETED, 0.0, Usage(600, 20, ttft_s=0.2))
    assert flow.rate_limits("a", 0.0)[1].remaining == 380
    # A newcomer finds no more requests.
    assert only(submit(flow, "u", tenant="a")).outcome is Outcome.REJECTED_REQUEST_RATE


class TestMoved:
    """A request whose engine was lost had been let in."""

    def submit(self, flow: FlowController, name: str, at_s: float, **fields):
        fields = {"class_name": "interactive", "moved": True, **fields}
        return flow.submit(Ticket(name, 0, at_s - 90.0, **fields), at_s)

    def test_one_whose_promise_is_over_gets_the_free_engine(self):
        assert isinstance(only(self.submit(controller(), "t", 100.0)), Granted)
        # Any other of that age is too late.
        fresh = self.submit(controller(), "t", 100.0, moved=False)
        assert only(fresh).outcome is Outcome.EVICTED_TIMEOUT

    def test_it_has_waited_for_its_first_place_before(self):
        assert only(self.submit(controller(), "t", 100.0)).again
        assert not only(submit(controller(), "t", at_s=100.0)).again

    def test_it_waits_before_all_others_for_as_long_as_any(self):
        flow = controller()
        submit(flow, "runs", at_s=100.0)
        assert submit(flow, "waits", at_s=100.0) == []
        assert self.submit(flow, "moved", 100.1, class_name="batch") == []
        assert only(flow.close("runs", Outcome.COMPLETED, 100.5)).lease.ticket_id == "moved"
        assert self.submit(flow, "second", 100.6) == []
        flow.tick(160.5)
        assert flow.snapshot(160.5).queued == 1
        assert only(flow.tick(160.7)).outcome is Outcome.EVICTED_TIMEOUT

    def test_its_own_deadline_stays(self):
        flow = controller()
        submit(flow, "runs", at_s=100.0)
        assert only(self.submit(flow, "t", 100.0, deadline_s=80.0)).outcome is Outcome.REJECTED_DEADLINE
        assert self.submit(flow, "u", 100.0, deadline_s=95.0) == []
        evicted = only(flow.tick(105.1))
        assert (evicted.ticket_id, evicted.outcome) == ("u", Outcome.EVICTED_TIMEOUT)

    def test_its_tenants_cap_holds_it_back(self):
        flow = controller(replace(CONFIG, tenants={"a": TenantPolicy(max_running=1)}), replicas="rs")
        submit(flow, "runs", at_s=100.0, tenant="a")
        assert self.submit(flow, "moved", 100.0, tenant="a") == []
        assert isinstance(only(submit(flow, "other", at_s=100.0)), Granted)
        # What it has waited for that is no reason to refuse it.
        granted = [one.lease.ticket_id for one in flow.close("runs", Outcome.COMPLETED, 104.0)]
        assert granted == ["moved"]


def test_capacity_that_is_starting_counts():
    flow = controller(replicas="")
    flow.capacity_starting("r", 5.0, 0.0)
    standard = {"class_name": "standard"}
    assert submit(flow, "waits", **standard) == []
    refused = only(submit(flow, "cannot"))
    assert (refused.outcome, refused.retry_after_s) == (Outcome.REJECTED_NO_ENGINE, 5)
    assert refused.predicted_wait_s == pytest.approx(5.0, abs=0.1)
    assert flow.predicted_ttft_s("waits") == pytest.approx(5.05, abs=0.2)
    assert only(flow.report(ReplicaReport("r", frozenset()), 5.0)).queue_wait_s == 5.0
    flow.capacity_starting("r", 9.0, 5.0)
    assert flow.snapshot(5.0).replicas_starting == 0


def test_a_start_shortens_a_wait_that_is_longer():
    waits = []
    for starting in ((), ("s",), ("s", "far")):
        flow = controller()
        for name in starting:
            flow.capacity_starting(name, 1.0 if name == "s" else 500.0, 0.0)
        for number in range(6):
            submit(flow, f"t{number}", class_name="batch")
        waits.append(flow.predicted_ttft_s("t5"))
    assert waits[1] < waits[0]
    assert waits[2] == waits[1]


def test_a_start_that_does_not_come_is_given_up():
    flow = controller(replicas="")
    flow.capacity_starting("r", 5.0, 0.0)
    submit(flow, "waits", class_name="batch")
    flow.tick(1e6)
    assert flow.snapshot(1e6).replicas_starting == 1 - (5.0 + START_PATIENCE_S < 1e6)
    assert flow.predicted_ttft_s("waits") is None


def test_without_an_engine_the_queue_is_refused_when_the_start_is_given_up():
    flow = controller(replicas="", limits=replace(LIMITS, max_queue_wait_s=1e9, replica_ttl_s=1.0))
    flow.capacity_starting("r", 5.0, 0.0)
    flow.submit(Ticket("t", 0, 0.0, class_name="batch"), 0.0)
    assert only(flow.replica_gone("r", 2.0)).outcome is Outcome.EVICTED_NO_ENGINE


def test_the_prediction_learns_its_own_error():
    flow = controller(replace(CONFIG, admission=AdmissionPolicy(promises=False)))
    for number in range(300):
        at_s = number * 10.0
        flow.report(ReplicaReport("r", frozenset()), at_s)
        submit(flow, f"t{number}", at_s, prompt_tokens=1000, size_bytes=1)
        flow.first_tokens([(f"t{number}", at_s + 1.5)], at_s + 1.5)
        flow.first_tokens([(f"t{number}", at_s + 1.6)], at_s + 1.6)
        flow.close(f"t{number}", Outcome.COMPLETED, at_s + 2.0, Usage(1000, 20, 1.5))
    submit(flow, "last", 4000.0, prompt_tokens=1000)
    assert flow.predicted_ttft_s("last") == pytest.approx(1.5, rel=0.25)


def test_what_was_predicted_before_the_engines_pace_was_known_teaches_nothing():
    def measured(steps: int) -> ReplicaReport:
        return ReplicaReport("r", frozenset(), metrics=EngineMetrics(1, 0, kv_use=0.1, steps=steps))

    flow = controller(limits=replace(LIMITS, requests_per_replica=50))
    names = [f"t{number}" for number in range(20)]
    for name in names:
        submit(flow, name, prompt_tokens=100, ttft_budget_s=100.0)
    flow.report(measured(0), 0.1)
    flow.report(measured(50), 1.0)
    for name in names:
        flow.first_tokens([(name, 90.0)], 90.0)
        flow.close(name, Outcome.COMPLETED, 90.0, Usage(100, 20, 90.0))
    submit(flow, "next", 91.0, prompt_tokens=100)
    assert flow.predicted_ttft_s("next") < 1.0


def test_a_time_to_first_token_in_the_usage_teaches_where_no_event_came():
    flow = controller()
    for number in range(200):
        submit(flow, f"t{number}", number * 10.0, prompt_tokens=1000)
        flow.close(f"t{number}", Outcome.COMPLETED, number * 10.0 + 2.0, Usage(1000, 20, 1.5))
    submit(flow, "last", 4000.0, prompt_tokens=1000)
    assert flow.predicted_ttft_s("last") == pytest.approx(1.5, rel=0.25)


def bounded(max_output_tokens: int, answers: int = 1) -> Ticket:
    return Ticket("t", 0, 0.0, max_output_tokens=max_output_tokens, answers=answers)


def test_a_predicted_end_uses_the_lengths_seen_for_that_bound():
    flow = controller()
    account = flow._tenants.get("default", 0.0)
    assert flow._predictor.output_tokens(account, bounded(0)) == (200, 200.0)
    assert flow._predictor.output_tokens(account, bounded(64)) == (64, 64.0)
    for _ in range(300):
        flow._predictor.output(account, bounded(1000), 40)
        flow._predictor.output(account, bounded(0), 30)
    assert flow._predictor.output_tokens(account, bounded(1000))[0] == 40
    assert flow._predictor.output_tokens(account, bounded(0))[0] == 30


def test_several_answers_are_expected_to_take_as_many_times_what_one_takes():
    flow = controller()
    account = flow._tenants.get("default", 0.0)
    assert flow._predictor.output_tokens(account, bounded(0, answers=8)) == (1600, 1600.0)
    for _ in range(300):
        flow._predictor.output(account, bounded(0), 30)
        flow._predictor.output(account, bounded(8 * 1000, answers=8), 8 * 40)
    assert flow._predictor.output_tokens(account, bounded(0, answers=8))[0] == 240
    assert flow._predictor.output_tokens(account, bounded(1000))[0] == 40
    # Never more than their bounds together.
    assert flow._predictor.output_tokens(account, bounded(160, answers=8)) == (160, 160.0)


def test_progress_beyond_the_expectation_is_charged_and_a_cancel_refunded():
    flow = controller()
    submit(flow, "t", prompt_tokens=100, max_output_tokens=64)
    tenant = flow._queue.classes[0].order.flows["default"]
    assert tenant.counter == 100 + 2 * 64
    flow.progress("t", 80)
    assert tenant.counter == 100 + 2 * 80
    flow.progress("nobody", 80)
    flow.close("t", Outcome.CANCELLED, 1.0)
    assert tenant.counter == 100 + 2 * 80


def test_a_cancel_pays_for_the_prompt_and_what_came():
    flow = controller()
    submit(flow, "t", prompt_tokens=100, max_output_tokens=64)
    flow.progress("t", 10)
    flow.close("t", Outcome.CANCELLED, 1.0)
    assert flow._queue.classes[0].order.flows["default"].counter == 100 + 2 * 10


def test_an_adopted_lease_is_nobodys_to_charge():
    flow = controller()
    flow.report(ReplicaReport("s", frozenset({"old"})), 0.0)
    flow.progress("old", 100)
    assert flow.first_tokens([("old", 1.0)], 1.0) == []
    assert flow.predicted_ttft_s("old") is None
    assert flow.close("old", Outcome.COMPLETED, 2.0, Usage(1, 1)) == []


# Preempt and requeue

PREEMPT = replace(CONFIG, admission=AdmissionPolicy(initial_service_s=1.7))


def revocable(flow: FlowController, name: str, at_s: float = 0.0, **fields):
    return submit(flow, name, at_s, **{"class_name": "batch", "revocable": True, **fields})


def test_an_urgent_ticket_that_would_be_late_takes_the_place_of_one_without_a_first_token():
    flow = controller(PREEMPT)
    revocable(flow, "batch")
    revoke, granted = submit(flow, "urgent", 0.5)
    assert revoke == Revoke("batch", "r")
    assert granted.lease.ticket_id == "urgent"
    assert flow.snapshot(0.5).queued_by_class["batch"] == 1
    again = only(flow.close("urgent", Outcome.COMPLETED, 1.0))
    assert (again.lease.ticket_id, again.queue_wait_s) == ("batch", 1.0)
    # Once only: the second time it keeps its place.
    assert submit(flow, "urgent-2", 1.1) == []


def test_who_has_lost_its_place_needs_as_few_as_before():
    flow = controller(PREEMPT)
    revocable(flow, "batch")
    flow._leases["batch"].entry.needed = -3.0
    submit(flow, "urgent", 0.5)
    assert flow._queue.get("batch").needed == -3.0


@pytest.mark.parametrize(
    ("why", "fields", "policy"),
    [
        ("it can't be taken back", {"revocable": False}, PreemptPolicy()),
        ("it would be granted again beside the urgent one", {"answers": 2}, PreemptPolicy()),
        ("it is of the same class", {"class_name": "interactive"}, PreemptPolicy()),
        ("its own promise is near", {"ttft_budget_s": 4.0}, PreemptPolicy()),
        ("switched off", {}, PreemptPolicy(enabled=False)),
        ("too old", {}, PreemptPolicy(max_age_s=0.1)),
        ("no risk", {}, PreemptPolicy(risk_share=10.0)),
    ],
)
def test_a_lease_is_not_taken_back_when(why, fields, policy):
    flow = controller(replace(PREEMPT, preempt=policy))
    revocable(flow, "batch", **fields)
    assert submit(flow, "urgent", 0.5) == [], why


def test_a_lease_is_not_taken_back_for_one_that_would_be_late_all_the_same():
    flow = controller(replace(PREEMPT, admission=AdmissionPolicy(initial_service_s=0.5)), replicas="rs")
    submit(flow, "first")
    revocable(flow, "batch")
    assert submit(flow, "urgent", 0.1, prompt_tokens=100) == []
    # Engines turn out to take ten seconds for its prompt.
    flow._pool.pace.learnt_s, flow._pool.pace.token_s = 0.0, 0.1
    assert flow.tick(0.9) == []
    flow._pool.pace.token_s = 0.01
    assert flow.tick(0.9)[0] == Revoke("batch", "s")


def test_who_loses_places_to_urgent_ones_gets_the_minimum_share_all_the_same():
    """One place, a second long; each class asks for more than there is."""
    urgent, patient = CONFIG.classes[0], replace(CONFIG.classes[2], min_share=0.2, reserve_roots=0.0)
    config = replace(CONFIG, classes=(urgent, patient), default_class="batch")
    flow = controller(config)
    running: dict[str, float] = {}
    served, revoked = {"interactive": 0, "batch": 0}, 0
    for number in range(1200):
        now_s = 0.1 * number
        actions = flow.tick(now_s)
        for name, since_s in list(running.items()):
            if now_s - since_s >= 0.3:
                actions += flow.first_tokens([(name, now_s)], now_s)
            if now_s - since_s >= 1.0:
                del running[name]
                served[name.split()[0]] += 1
                actions += flow.close(name, Outcome.COMPLETED, now_s, Usage(500, 100))
        if number % 7 == 0:
            for kind in served:
                actions += revocable(flow, f"{kind} {number}", now_s, class_name=kind, prompt_tokens=500)
        for action in actions:
            if isinstance(action, Granted):
                running[action.lease.ticket_id] = now_s
            elif isinstance(action, Revoke):
                del running[action.ticket_id]
                revoked += 1
    assert revoked > 10
    assert served["batch"] / sum(served.values()) == pytest.approx(0.2, abs=0.02)


def test_a_request_with_a_first_token_keeps_its_place():
    flow = controller(PREEMPT)
    revocable(flow, "batch")
    flow.first_tokens([("batch", 0.2)], 0.2)
    assert submit(flow, "urgent", 0.5) == []


def test_a_request_that_has_made_tokens_keeps_its_place_though_nobody_told_of_the_first():
    flow = controller(PREEMPT)
    revocable(flow, "batch", prompt_tokens=100)
    flow.progress("batch", 0)
    assert flow._pool.prefill_tokens == 100
    flow.progress("batch", 1)
    assert flow._pool.prefill_tokens == 0
    assert submit(flow, "urgent", 0.5) == []
    flow.first_tokens([("batch", 0.4)], 0.6)
    flow.close("batch", Outcome.COMPLETED, 0.7)
    assert flow._pool.prefill_tokens == 0


def test_no_lease_is_taken_back_where_that_leaves_no_place():
    """One place of two is free, and enough for a request of four answers: five are taken."""
    flow = controller(PREEMPT, replace(LIMITS, requests_per_replica=2))
    revocable(flow, "batch")
    revocable(flow, "many", answers=4)
    assert submit(flow, "urgent", 0.5) == []
    assert flow.snapshot(0.5).in_flight_by_replica == {"r": 5}
    # Of two it is one.
    only(flow.close("many", Outcome.COMPLETED, 0.6))


def test_a_silent_replicas_lease_is_not_taken_back():
    flow = controller(PREEMPT, replace(LIMITS, replica_ttl_s=0.1))
    revocable(flow, "batch")
    flow.report(ReplicaReport("full", frozenset({"adopted"})), 0.5)
    assert submit(flow, "urgent", 0.5) == []


def test_a_ticket_that_comes_to_be_at_risk_is_rescued_by_the_tick():
    flow = controller(replace(PREEMPT, admission=AdmissionPolicy(initial_service_s=2.0)), replicas="rs")
    submit(flow, "first")
    revocable(flow, "batch")
    assert submit(flow, "urgent", 0.1) == []
    # The only one that waits has a place in a second: two places, two seconds each.
    assert flow.tick(0.6) == []
    revoke, granted = flow.tick(0.9)
    assert revoke == Revoke("batch", "s")
    assert granted.lease.ticket_id == "urgent"


def test_a_first_token_that_crosses_its_revoke_keeps_the_lease():
    flow = controller(PREEMPT)
    revocable(flow, "batch")
    submit(flow, "urgent", 0.5)
    assert flow.first_tokens([("batch", 0.6)], 0.6) == []
    assert flow.snapshot(0.6).in_flight_by_replica == {"r": 2}
    assert flow.close("batch", Outcome.COMPLETED, 1.0) == []


def crossed() -> FlowController:
    """The lease of `batch` was taken back on r, and granted anew on s."""
    flow = controller(replace(PREEMPT, admission=AdmissionPolicy(initial_service_s=3.4)), replicas="rs")
    revocable(flow, "batch")
    submit(flow, "other")
    assert submit(flow, "urgent", 0.5)[0] == Revoke("batch", "r")
    assert only(flow.close("other", Outcome.COMPLETED, 0.6)).lease == Lease("batch", "s")
    return flow


def test_a_first_token_that_crosses_its_revoke_leaves_the_next_lease_to_others():
    flow = crossed()
    assert submit(flow, "waits", 0.6) == []
    granted = only(flow.first_tokens([("batch", 0.6)], 0.7, "r"))
    assert granted.lease == Lease("waits", "s")
    assert flow.snapshot(0.7).in_flight_by_replica == {"r": 2, "s": 1}
    assert flow._leases["batch"].first_token_s == 0.6
    flow.close("batch", Outcome.COMPLETED, 1.0, Usage(10, 5))
    assert flow.snapshot(1.0).in_flight_by_replica == {"r": 1, "s": 1}


@pytest.mark.parametrize("replica_id", ["s", None])
def test_a_first_token_of_the_next_lease_is_its_own(replica_id: str | None):
    flow = crossed()
    assert flow.first_tokens([("batch", 0.7)], 0.7, replica_id) == []
    assert flow.snapshot(0.7).in_flight_by_replica == {"r": 1, "s": 1}
    assert flow._leases["batch"].first_token_s == 0.7


def test_a_first_token_of_an_engine_that_never_had_the_lease_changes_nothing():
    flow = crossed()
    flow.report(ReplicaReport("t", frozenset({"adopted"})), 0.6)
    news = [("batch", 0.7), ("urgent", 0.7), ("adopted", 0.7)]
    assert flow.first_tokens(news, 0.7, "never") == []
    assert flow.snapshot(0.7).in_flight_by_replica == {"r": 1, "s": 1, "t": 1}
    assert [flow._leases[name].first_token_s for name, _ in news] == [None] * 3


def test_a_first_token_of_an_engine_that_is_gone_changes_nothing():
    flow = crossed()
    flow.replica_gone("r", 0.65)
    assert flow.first_tokens([("batch", 0.6)], 0.7, "r") == []
    assert flow.snapshot(0.7).in_flight_by_replica == {"s": 1}


def test_a_lease_that_stands_again_is_as_old_as_it_was_whatever_the_engines_clock_says():
    flow = controller(PREEMPT, replace(LIMITS, lease_ttl_s=5.0))
    revocable(flow, "batch")
    submit(flow, "urgent", 0.5)
    flow.first_tokens([("batch", -9.0)], 0.6)
    held = flow._leases["batch"]
    assert (held.granted_s, held.seen_s, held.first_token_s) == (0.0, 0.6, -9.0)
    flow.tick(0.7)
    assert flow.snapshot(0.7).in_flight_by_replica == {"r": 2}


@pytest.mark.parametrize("outcome", [Outcome.COMPLETED, Outcome.CANCELLED])
def test_an_answer_that_ends_while_its_revoke_is_under_way_is_paid_for_and_told_of(outcome: Outcome):
    config = replace(PREEMPT, tenant=TenantPolicy(tokens_per_minute=600))
    ends: list[Ended] = []
    flow = FlowController(LIMITS, config, lambda: 0.0, ends.append)
    flow.report(ReplicaReport("r", frozenset()), 0.0)
    revocable(flow, "batch", prompt_tokens=100, tenant="slow")
    submit(flow, "urgent", 0.5)
    usage = Usage(100, 50, ttft_s=0.3, decode_s=0.3)
    assert flow.close("batch", outcome, 0.6, usage) == []
    assert flow.snapshot(0.6).in_flight_by_replica == {"r": 1}
    assert flow.snapshot(0.6).queued == 0
    assert [(end.outcome, end.ttft_s, end.usage) for end in ends] == [(outcome, 0.3, usage)]
    assert flow._queue.classes[2].order.flows["slow"].counter == 100 + 2 * 50
    assert flow.rate_limits("slow", 0.6)[1].remaining == 600 + 6 - 150


def test_one_that_is_cancelled_after_its_revoke_pays_nothing():
    flow = controller(PREEMPT)
    revocable(flow, "batch", tenant="slow")
    submit(flow, "urgent", 0.5)
    assert flow.close("batch", Outcome.CANCELLED, 0.6) == []
    assert flow._queue.classes[2].order.flows["slow"].counter == 0.0


def test_a_first_token_of_a_replica_that_has_gone_does_not_revive_its_lease():
    flow = controller(PREEMPT, replicas="r")
    revocable(flow, "batch")
    submit(flow, "urgent", 0.5)
    flow.report(ReplicaReport("full", frozenset({"adopted"})), 0.5)
    flow.replica_gone("r", 0.6)
    flow.first_tokens([("batch", 0.7)], 0.7)
    assert flow.snapshot(0.7).queued == 1


def test_a_ticket_that_waits_and_was_never_revoked_has_no_first_token():
    flow = controller()
    submit(flow, "running")
    submit(flow, "waiting")
    flow.first_tokens([("waiting", 0.1)], 0.1)
    assert flow.snapshot(0.1).queued == 1


def test_nobody_is_rescued_whose_tenant_runs_all_that_it_may():
    config = replace(PREEMPT, tenants={"a": TenantPolicy(max_running=1)})
    flow = controller(config, replicas="rs")
    submit(flow, "runs", tenant="a")
    revocable(flow, "batch")
    assert submit(flow, "urgent", 0.5, tenant="a") == []


# Replica choice


def test_a_prompt_goes_where_its_beginning_is_cached_and_costs_its_tenant_less():
    wide = replace(LIMITS, requests_per_replica=10)
    flow = controller(limits=wide, replicas="rstuv")
    flow = FlowController(wide, CONFIG, iter_uniform())
    for replica_id in "rstuv":
        flow.report(ReplicaReport(replica_id, frozenset()), 0.0)
    first = only(submit(flow, "a", prompt_tokens=2000, prefix_blocks=(1, 2, 3)))
    flow.first_tokens([("a", 0.5)], 0.5)
    counter = flow._queue.classes[0].order.flows["default"].counter
    second = only(submit(flow, "b", 1.0, prompt_tokens=2000, prefix_blocks=(1, 2, 3)))
    assert second.lease.replica_id == first.lease.replica_id
    assert flow._queue.classes[0].order.flows["default"].counter - counter == 2000 - 3 * 256 + 400


def iter_uniform():
    state = [0.0]

    def uniform() -> float:
        state[0] = (state[0] + 0.37) % 1.0
        return state[0]

    return uniform


def test_a_session_stays_with_its_replica_unless_that_is_much_slower():
    wide = replace(LIMITS, requests_per_replica=10)
    flow = FlowController(wide, replace(CONFIG, route=RoutePolicy(max_sessions=1)), iter_uniform())
    for replica_id in "rstuv":
        flow.report(ReplicaReport(replica_id, frozenset()), 0.0)
    first = only(submit(flow, "a", session_id="s", prompt_tokens=10)).lease.replica_id
    flow.first_tokens([("a", 0.1)], 0.1)
    chosen = {only(submit(flow, f"b{n}", session_id="s")).lease.replica_id for n in range(3)}
    assert chosen == {first}
    assert only(submit(flow, "other", session_id="x", prompt_tokens=5000)).lease.replica_id
    held = flow._pool.replicas[first]
    held.clock.give(1_000_000, 1, 0.0)
    assert only(submit(flow, "away", session_id="s")).lease.replica_id != first


def test_a_full_cache_holds_back_what_does_not_fit_but_an_empty_engine_takes_anything():
    flow = controller(limits=replace(LIMITS, requests_per_replica=10))
    metrics = EngineMetrics(running=0, waiting=0, kv_use=0.0, kv_capacity_tokens=1000)
    for _ in range(2):
        flow.report(ReplicaReport("r", frozenset(), metrics=metrics), 0.0)
    flow._pool.replicas["r"].limit._set(10.0)
    big = {"prompt_tokens": 800, "max_output_tokens": 64, "class_name": "batch"}
    assert isinstance(only(submit(flow, "a", **big)), Granted)
    assert submit(flow, "b", **big) == []
    assert only(flow.close("a", Outcome.COMPLETED, 0.5)).lease.ticket_id == "b"


# Classes


@pytest.mark.parametrize(
    ("fields", "highest", "name"),
    [
        ({"class_name": "batch"}, "", "batch"),
        ({"class_name": "unknown"}, "", "standard"),
        ({"priority": -5}, "", "interactive"),
        ({"priority": 5}, "", "batch"),
        ({"class_name": "interactive"}, "standard", "standard"),
        ({"class_name": "batch"}, "standard", "batch"),
    ],
)
def test_the_class_is_asked_for_by_name_or_priority_and_capped_by_the_tenant(fields, highest, name):
    ticket = Ticket(**{"ticket_id": "t", "priority": 0, "arrived_s": 0.0, **fields})
    rank = ClassIndex(CONFIG).of(ticket, TenantPolicy(highest_class=highest))
    assert CONFIG.classes[rank].name == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": (CONFIG.classes[0], CONFIG.classes[0])}, "not distinct"),
        ({"default_class": "x"}, "default_class: 'x'"),
        ({"tenants": {"a": TenantPolicy(highest_class="x")}}, r"tenants\['a'\]\.highest_class: 'x'"),
        ({"tenant": TenantPolicy(highest_class="x")}, r"^tenant\.highest_class: 'x'"),
        ({"classes": (ClassPolicy("standard", 0.0, 1.0, 1.0),)}, "minimum shares"),
    ],
)
def test_a_configuration_that_cannot_be_kept_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_forgotten_tenants_leave_no_flow_behind():
    flow = controller(replace(CONFIG, fairness=FairnessPolicy(max_tenants=1)))
    for number in range(5):
        submit(flow, f"t{number}", float(number), tenant=f"tenant-{number}")
        flow.close(f"t{number}", Outcome.COMPLETED, float(number))
    flow.tick(5.0)
    assert list(flow._queue.classes[0].order.flows) == ["tenant-4"]


# Promises


def test_a_client_that_is_early_is_told_its_time_again():
    flow = controller(replace(CONFIG, admission=AdmissionPolicy(initial_service_s=4.0)))
    submit(flow, "running")
    refused = only(submit(flow, "first", fingerprint="body"))
    assert (refused.promised, refused.retry_after_s) == (True, 8)
    early = only(submit(flow, "early", 2.5, fingerprint="body"))
    assert (early.promised, early.retry_after_s) == (True, 6)
    assert len(flow._gate._promises[0]) == 1
    assert submit(flow, "again", 8.0, fingerprint="body") == []


def returned(ended_s: float, *meanwhile: str) -> FlowController:
    """A client was told to come after eight seconds, does so, and needs no place that is kept for it."""
    flow = controller(replace(CONFIG, admission=AdmissionPolicy(initial_service_s=4.0)))
    submit(flow, "running")
    assert only(submit(flow, "first", fingerprint="body")).retry_after_s == 8
    flow.close("running", Outcome.COMPLETED, ended_s)
    for name in meanwhile:
        submit(flow, name, 7.0)
    assert not any(isinstance(one, Refused) for one in submit(flow, "again", 8.0, fingerprint="body"))
    return flow


@pytest.mark.parametrize("meanwhile", [(), ("other",)], ids=["an idle engine", "a short wait"])
def test_who_returns_in_time_and_finds_room_has_come_back(meanwhile):
    flow = returned(1.0, *meanwhile)
    assert (flow.snapshot(8.0).queued, flow.snapshot(8.0).in_flight) == (len(meanwhile), 1)
    book = flow._gate._promises[0]
    assert len(book) == 0
    share = book._returns.value
    assert book.ahead(100.0, 60.0) == 0.0
    assert book._returns.value == share > INITIAL_RETURN_SHARE


def test_a_clock_that_is_set_back_puts_off_no_promise():
    flow = controller(replace(CONFIG, admission=AdmissionPolicy(initial_service_s=4.0)))
    submit(flow, "running", 9000.0)
    assert only(submit(flow, "first", 9000.0, fingerprint="body")).retry_after_s == 3
    flow.skip(-3600.0)
    assert only(submit(flow, "early", 5401.0, fingerprint="body")).retry_after_s == 2
    assert only(submit(flow, "other", 5401.0, fingerprint="else")).promised
    assert submit(flow, "again", 5403.0, fingerprint="body") == []
    book = flow._gate._promises[0]
    assert len(book) == 1
    assert book.ahead(100.0, 5500.0) == len(book) == 0


def test_a_time_that_has_lapsed_is_not_told_again():
    book = PromiseBook(AdmissionPolicy())
    book.make(("a", "x"), 10.0)
    assert book.due_s(("a", "x"), 15.0) == 10.0
    assert book.due_s(("a", "y"), 15.0) is None
    assert book.due_s(("a", "x"), 15.1) is None


def test_a_promise_is_kept_for_one_client_about_its_time():
    book = PromiseBook(AdmissionPolicy())
    assert book.make(("a", "x"), 10.0)
    assert not book.make(("a", "x"), 20.0)
    assert not book.redeem(("a", "x"), 8.0)
    assert not book.redeem(("a", "y"), 10.0)
    assert book.redeem(("a", "x"), 9.5)
    assert not book.redeem(("a", "x"), 9.6)
    assert len(book) == 0


def test_a_tenant_with_two_promises_uses_them_one_by_one():
    book = PromiseBook(AdmissionPolicy())
    for name in "xy":
        book.make(("a", name), 10.0)
    assert book.redeem(("a", "x"), 10.0)
    assert len(book) == 1
    assert book.redeem(("a", "y"), 10.0)


def test_a_promise_lapses_and_what_lapses_lowers_what_is_expected():
    book = PromiseBook(AdmissionPolicy())
    book.make(("a", "x"), 10.0)
    before = book.ahead(100.0, 9.0)
    assert 0 < before <= 1
    assert book.ahead(100.0, 15.1) == 0.0
    book.make(("a", "x"), 30.0)
    assert book.ahead(100.0, 20.0) < before


def test_a_redeemed_promise_lapses_without_being_counted_twice():
    book = PromiseBook(AdmissionPolicy())
    book.make(("a", "x"), 10.0)
    book.redeem(("a", "x"), 10.0)
    book.make(("a", "x"), 30.0)
    assert book.ahead(100.0, 20.0) > 0
    assert len(book) == 1


def test_places_are_handed_out_at_a_share_of_the_rate():
    book = PromiseBook(AdmissionPolicy(promise_share=0.5))
    book.make(("a", "x"), 10.0)
    assert book.offer_s(3.0, rate_per_s=1.0) == 12.0
    assert book.offer_s(30.0, rate_per_s=1.0) == 30.0


def test_however_fast_a_class_is_served_it_promises_one_place_a_second_at_most():
    book = PromiseBook(AdmissionPolicy())
    due_s = []
    for number in range(10):
        due_s.append(book.offer_s(10.0 + number / 9, rate_per_s=1000.0))
        assert book.make((f"t{number}", ""), due_s[-1])
    assert all(later - sooner >= 1.0 for sooner, later in itertools.pairwise(due_s))


def test_the_book_and_each_tenants_part_of_it_are_bounded():
    book = PromiseBook(AdmissionPolicy(max_promises=8))
    made = [book.make(("greedy", str(n)), 10.0 + n) for n in range(20)]
    assert SPARE_PROMISES <= sum(made) <= 2 * SPARE_PROMISES
    for number in range(20):
        book.make((f"t{number}", ""), 40.0)
    assert len(book) <= 8


@pytest.mark.parametrize(
    "name", ["weight", "requests_per_minute", "tokens_per_minute", "max_queued", "max_running", "max_bytes"]
)
def test_a_tenant_that_is_served_is_given_something(name: str):
    with pytest.raises(ValueError, match=rf"tenants\['a'\]\.{name}: 0 must be above 0"):
        FlowConfig(tenants={"a": TenantPolicy(**{name: 0})})
    with pytest.raises(ValueError, match=rf"tenant\.{name}: -1 must be above 0"):
        FlowConfig(tenant=TenantPolicy(**{name: -1}))


def test_nor_by_a_setting_of_zero():
    with pytest.raises(ValueError, match=r"admission\.promise_share: 0\.0 must be above 0"):
        FlowConfig(admission=AdmissionPolicy(promise_share=0.0))
    with pytest.raises(ValueError, match=r"classes\['c'\]\.ttft_budget_s: 0 must be above 0"):
        FlowConfig(classes=(ClassPolicy("c", 0.0, 0.0, 0),), default_class="c")
    with pytest.raises(ValueError, match=r"limit\.itl_budget_s: 0 must be above 0"):
        FlowConfig(limit=LimitPolicy(itl_budget_s=0))
    with pytest.raises(ValueError, match=r"route\.tokens_per_block: 0 must be above 0"):
        FlowConfig(route=RoutePolicy(tokens_per_block=0))
    with pytest.raises(ValueError, match=r"admission\.promise_late_s: 0 must be above 0"):
        FlowConfig(admission=AdmissionPolicy(promise_late_s=0))


def test_a_controller_is_young_until_it_had_time_to_hear_of_its_engines():
    flow = FlowController(LIMITS)
    flow.tick(10.0)
    assert flow.young(10.0 + LIMITS.replica_ttl_s)
    assert not flow.young(10.1 + LIMITS.replica_ttl_s)


def test_a_long_prompt_waits_for_engines_to_be_heard_of():
    """By initial values it alone takes longer than its promise, of which they know nothing."""
    flow = FlowController(LIMITS, CONFIG, lambda: 0.0)
    flow.tick(0.0)
    flow.tick(0.5)
    ticket = Ticket("a", 0, 0.0, class_name="standard", prompt_tokens=25_000)
    assert flow.submit(ticket, 0.5) == []
    assert flow.tick(0.6) == []
    assert isinstance(only(flow.report(ReplicaReport("r", frozenset()), 1.0)), Granted)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e17, math.inf, math.nan])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        (
            r"classes\['c'\]\.ttft_budget_s",
            lambda value: FlowConfig(classes=(ClassPolicy("c", 0.0, 0.0, value),), default_class="c"),
        ),
        (
            r"admission\.rate_horizon_s",
            lambda value: FlowConfig(admission=AdmissionPolicy(rate_horizon_s=value)),
        ),
        (r"admission\.lull_s", lambda value: FlowConfig(admission=AdmissionPolicy(lull_s=value))),
        (r"limit\.kv_reserve", lambda value: FlowConfig(limit=LimitPolicy(kv_reserve=value))),
        (r"tenant\.weight", lambda value: FlowConfig(tenant=TenantPolicy(weight=value))),
    ],
)
def test_what_rates_and_places_are_worked_out_from_is_above_zero_and_finite(name: str, config, value: float):
    with pytest.raises(
        ValueError, match=rf"^{name}: {re.escape(str(value))} must be above 0 and at most 1e\+09"
    ):
        config(value)


@pytest.mark.parametrize("share", [1, -0.1, math.nan])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        (
            r"admission\.error_quantile",
            lambda share: FlowConfig(admission=AdmissionPolicy(error_quantile=share)),
        ),
        (r"limit\.shrink", lambda share: FlowConfig(limit=LimitPolicy(shrink=share))),
        (r"limit\.floor_share", lambda share: FlowConfig(limit=LimitPolicy(floor_share=share))),
    ],
)
def test_a_part_is_less_than_the_whole(name: str, config, share: float):
    with pytest.raises(ValueError, match=rf"^{name}: {share} must be 0 or more and below 1"):
        config(share)


@pytest.mark.parametrize("value", [0.0, -1.0, 3.0, math.nan])
@pytest.mark.parametrize("name", ["smoothing", "promise_share"])
def test_a_part_is_more_than_nothing_and_not_more_than_the_whole(name: str, value: float):
    with pytest.raises(ValueError, match=rf"^admission\.{name}: {value} must be above 0 and at most 1$"):
        FlowConfig(admission=AdmissionPolicy(**{name: value}))
    assert FlowConfig(admission=AdmissionPolicy(**{name: 1.0}))


def test_nobody_yields_for_longer_than_it_may_wait():
    with pytest.raises(ValueError, match=r"^admission\.yield_share: 1\.5 must be 0 or more and at most 1$"):
        FlowConfig(admission=AdmissionPolicy(yield_share=1.5))


@pytest.mark.parametrize("value", [-2.0, math.nan])
@pytest.mark.parametrize(
    ("kind", "where", "names"),
    [
        (FairnessPolicy, "fairness", ["output_weight", "return_credit"]),
        (
            AdmissionPolicy,
            "admission",
            ["standing_weight", "thrift_roots", "burst_s", "promise_early_s", "max_promises", "yield_share"],
        ),
        (LimitPolicy, "limit", ["burst_share", "window_s", "stale_s"]),
        (PreemptPolicy, "preempt", ["max_revokes", "max_age_s", "min_slack_s", "risk_share"]),
        (RoutePolicy, "route", ["prefill_share", "affinity_bonus_s"]),
    ],
)
def test_what_may_be_nothing_is_not_less(kind, where: str, names: list[str], value: float):
    for name in names:
        with pytest.raises(ValueError, match=rf"^{where}\.{name}: {value} must be 0 or more"):
            FlowConfig(**{where: kind(**{name: value})})
        assert FlowConfig(**{where: kind(**{name: 0})})


@pytest.mark.parametrize("value", [-5, 0, math.nan])
@pytest.mark.parametrize(
    ("kind", "where", "name"),
    [
        (FairnessPolicy, "fairness", "max_tenants"),
        (AdmissionPolicy, "admission", "initial_output_tokens"),
        (AdmissionPolicy, "admission", "lull_weight"),
        (LimitPolicy, "limit", "kv_high"),
    ],
)
def test_what_nothing_works_without_is_above_zero(kind, where: str, name: str, value: float):
    with pytest.raises(ValueError, match=rf"^{where}\.{name}: {value} must be above 0"):
        FlowConfig(**{where: kind(**{name: value})})


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["boost_s", "reserve_roots"])
def test_a_class_is_ordered_by_numbers(name: str, value: float):
    policy = replace(CONFIG.classes[1], **{name: value})
    with pytest.raises(
        ValueError, match=rf"^classes\['standard'\]\.{name}: {value} must be 0 or more and at most 1e\+09"
    ):
        FlowConfig(classes=(policy,))


@pytest.mark.parametrize("share", [-0.5, math.nan])
def test_no_minimum_share_makes_up_for_another(share: float):
    classes = (ClassPolicy("a", 0.0, 1.2, 1.0), ClassPolicy("b", 0.0, share, 1.0))
    with pytest.raises(ValueError, match=r"^classes\['[ab]'\]\.min_share: .* must be 0 or more and below 1"):
        FlowConfig(classes=classes, default_class="a")


@pytest.mark.parametrize("name", ["max_blocks_per_replica", "max_blocks", "max_sessions"])
def test_what_is_remembered_of_prompts_is_something(name: str):
    with pytest.raises(ValueError, match=rf"^route\.{name}: -1 must be above 0"):
        FlowConfig(route=RoutePolicy(**{name: -1}))


@pytest.mark.parametrize(
    "promise", [{"ttft_budget_s": 0.02}, {"deadline_s": 1.0, "max_output_tokens": 200}], ids=["first", "end"]
)
def test_what_would_be_late_in_a_place_of_its_own_is_told_no_time(promise: dict[str, float]):
    flow = controller(limits=replace(LIMITS, requests_per_replica=16))
    # An engine of a known pace: 50 ms a step and token.
    for second in range(3):
        metrics = EngineMetrics(1, 0, 0.1, itl_s=0.05, steps=20 * second, prompt_tokens=0)
        flow.report(ReplicaReport("r", frozenset(), metrics=metrics), float(second))
    submit(flow, "running", 2.0)
    refused = only(submit(flow, "hopeless", 2.0, **promise))
    assert (refused.outcome, refused.retry_after_s) == (Outcome.REJECTED_DEADLINE, None)
    assert not refused.promised
    # Nobody else is in want because of it.
    assert not flow._queue.classes[0].wants(2.0)


def test_where_nothing_is_known_of_an_engine_a_time_is_told_all_the_same():
    flow = controller(replace(CONFIG, admission=AdmissionPolicy(initial_service_s=4.0)))
    submit(flow, "running", 0.0)
    assert only(submit(flow, "late", 0.0, ttft_budget_s=0.01)).promised


def test_those_that_waited_at_the_scheduler_before_wait_at_a_young_one():
    limits = replace(LIMITS, max_queued=100, max_queued_without_engine=2, replica_ttl_s=5.0)
    flow = FlowController(limits, CONFIG, lambda: 0.0)
    flow.tick(0.0)
    assert [submit(flow, f"t{number}", 0.1) for number in range(5)] == [[]] * 5
    # Where engines are known to be starting it takes longer than that.
    flow.capacity_starting("r", 60.0, 0.2)
    assert only(submit(flow, "late", 0.3)).outcome is Outcome.REJECTED_NO_ENGINE


def test_a_client_that_returns_as_told_finds_room_in_a_full_queue():
    config = replace(CONFIG, admission=AdmissionPolicy(initial_service_s=4.0))
    flow = controller(config, replace(LIMITS, max_queued=2))
    submit(flow, "running", class_name="standard")
    for name in ("first", "second"):
        assert submit(flow, name, class_name="standard") == []
    told = only(submit(flow, "late", class_name="standard", fingerprint="body"))
    assert told.promised
    due_s = float(told.retry_after_s)
    made = only(submit(flow, "again", due_s, class_name="standard", fingerprint="body"))
    assert (made.ticket_id, made.outcome) == ("second", Outcome.EVICTED_PREEMPTED)
    assert "again" in flow._queue


def test_one_that_has_been_taken_back_already_shields_none_of_its_class():
    slow = replace(PREEMPT, admission=AdmissionPolicy(initial_service_s=3.4))
    flow = controller(slow, replace(LIMITS, requests_per_replica=2))
    revocable(flow, "b1", 0.0)
    revocable(flow, "b2", 0.1)
    revoke, _ = submit(flow, "i1", 0.2)
    assert revoke.ticket_id == "b2"
    (again,) = flow.close("i1", Outcome.CANCELLED, 0.3)
    assert again.lease.ticket_id == "b2"
    revoke, granted = submit(flow, "i2", 0.4)
    assert (revoke.ticket_id, granted.lease.ticket_id) == ("b1", "i2")


def test_what_is_in_time_only_with_what_an_engine_has_cached_is_told_a_time_and_finds_its_place():
    """Ten seconds of prompt, nearly all of which the engine knows."""
    pace = AdmissionPolicy(initial_prefill_tokens_per_s=1000.0, initial_service_s=4.0)
    flow = controller(replace(CONFIG, admission=pace))
    flow._pool.pace.learnt_s = 0.0
    blocks = tuple(range(39))
    submit(flow, "running", prompt_tokens=10_000, prefix_blocks=blocks)
    told = only(submit(flow, "known", prompt_tokens=10_000, prefix_blocks=blocks))
    assert told.promised
    assert not only(submit(flow, "new", prompt_tokens=10_000, fingerprint="new")).promised
    due_s = float(told.retry_after_s)
    assert submit(flow, "known", due_s, prompt_tokens=10_000, prefix_blocks=blocks) == []
    assert flow.tick(due_s + 0.1) == []
    assert only(flow.close("running", Outcome.COMPLETED, due_s + 0.2)).lease.ticket_id == "known"


def test_a_victim_that_is_of_no_use_shields_none_on_another_engine():
    slow = replace(PREEMPT, admission=AdmissionPolicy(initial_service_s=3.4))
    flow = controller(slow, replicas="rs")
    revocable(flow, "b1", 0.0)
    revocable(flow, "b2", 0.1)
    (second,) = {"r", "s"} - {flow._leases["b1"].lease.replica_id}
    flow.replica_unroutable(second, 0.15)
    revoke, granted = submit(flow, "urgent", 0.5)
    assert (revoke.ticket_id, granted.lease.ticket_id) == ("b1", "urgent")
