"""The controller's rules, one by one; the machine in test_rules.py mixes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.flow.config import ClassPolicy, FlowConfig, Limits, TenantPolicy
from app.flow.controller import FlowController
from app.flow.gate import MAX_RETRY_AFTER_S
from app.flow.outcome import Outcome
from app.flow.replicas import FIRST_BAR_S, LATE_REPORT_S, REPLICA_MEMORY_S
from app.flow.ticket import EngineMetrics, Granted, Lease, Refused, ReplicaReport, Ticket, Usage

LIMITS = Limits(
    max_queued=2, max_queue_wait_s=60.0, requests_per_replica=1, lease_ttl_s=15.0, replica_ttl_s=5.0
)

# Budgets that never bind, so that the bounds above do.
PATIENT = FlowConfig(
    classes=(
        ClassPolicy("interactive", boost_s=2e3, min_share=0.0, ttft_budget_s=1e9),
        ClassPolicy("standard", boost_s=1e3, min_share=0.0, ttft_budget_s=1e9),
        ClassPolicy("batch", boost_s=0.0, min_share=0.0, ttft_budget_s=1e9),
    )
)


def controller(*replicas: str, limits: Limits = LIMITS) -> FlowController:
    """At time 0, with these replicas just heard of; hints without jitter."""
    flow = FlowController(limits, PATIENT, lambda: 0.0)
    flow.tick(0.0)
    for replica_id in replicas:
        report(flow, replica_id, at_s=0.0)
    return flow


def submit(flow: FlowController, ticket_id: str, priority: int = 0, at_s: float = 0.0):
    return flow.submit(Ticket(ticket_id, priority, at_s), at_s)


def report(flow: FlowController, replica_id: str, *leases: str, at_s: float, draining: bool = False):
    return flow.report(ReplicaReport(replica_id, frozenset(leases), draining), at_s)


def granted(
    ticket_id: str, replica_id: str = "r", queue_wait_s: float = 0.0, class_name: str = "standard"
) -> Granted:
    return Granted(Lease(ticket_id, replica_id), queue_wait_s, class_name)


def outcomes(actions) -> list[tuple[str, Outcome]]:
    assert all(isinstance(action, Refused) for action in actions)
    return [(action.ticket_id, action.outcome) for action in actions]


def test_a_free_replica_is_granted_at_once():
    flow = controller("r")
    assert submit(flow, "a") == [granted("a")]
    assert flow.snapshot(0.0).in_flight_by_replica == {"r": 1}


def test_a_ticket_waits_while_all_places_are_taken_and_gets_the_next_one():
    flow = controller("r")
    submit(flow, "a")
    assert submit(flow, "b", at_s=1.0) == []
    assert flow.close("a", Outcome.COMPLETED, 3.0) == [granted("b", queue_wait_s=2.0)]


def test_a_request_of_several_answers_takes_a_place_for_each():
    """One free place is enough for it: it would wait for long while the others take every second one."""
    flow = controller("r", limits=replace(LIMITS, requests_per_replica=4))
    submit(flow, "a")
    assert flow.submit(Ticket("many", 0, 1.0, answers=4), 1.0) == [granted("many")]
    assert submit(flow, "b", at_s=2.0) == []
    # Five are taken of four, then four.
    assert flow.close("a", Outcome.COMPLETED, 3.0) == []
    assert flow.close("many", Outcome.COMPLETED, 4.0) == [granted("b", queue_wait_s=2.0)]
    assert [submit(flow, name, at_s=5.0) for name in "cd"] == [[granted("c")], [granted("d")]]


def test_several_whole_answers_are_no_backlog_of_prompts_for_as_long_as_they_take():
    """Nobody says when the first of them began: the engine's clock does."""
    flow = controller("r", limits=replace(LIMITS, requests_per_replica=8))
    flow.submit(Ticket("many", 0, 0.0, answers=4, prompt_tokens=2000), 0.0)
    assert submit(flow, "a", at_s=0.5) == [granted("a")]
    report(flow, "r", "many", "a", at_s=0.6)
    assert flow._pool.prefill_tokens == 2000
    assert submit(flow, "b", at_s=4.0) == [granted("b")]
    report(flow, "r", "many", "a", "b", at_s=4.5)
    assert flow._pool.prefill_tokens == 0
    flow.close("many", Outcome.COMPLETED, 5.0, Usage(2000, 400))
    assert flow._pool.prefill_tokens == 0


@pytest.mark.parametrize(
    ("decode_s", "left_s"),
    # By the engine 13 ms ago; now, as the closing comes; not before the first token, nor after the closing. A
    # step that begins now takes a newcomer along.
    [(0.98, 0.007), (None, 0.0), (-5.0, 0.0), (99.0, 0.0)],
)
def test_a_step_has_ended_when_the_engine_says_so(decode_s: float | None, left_s: float):
    flow = controller("r", limits=replace(LIMITS, requests_per_replica=3))
    submit(flow, "a")
    submit(flow, "b")
    flow.first_tokens([("a", 0.02)], 0.02)
    if decode_s == -5.0:
        flow.first_tokens([("b", 1.013)], 1.013)
    usage = Usage(1, 50, ttft_s=0.02, decode_s=decode_s)
    flow.close("a" if decode_s != -5.0 else "b", Outcome.COMPLETED, 1.013, usage)
    submit(flow, "c", at_s=1.013)
    assert flow.predicted_ttft_s("c") == pytest.approx(left_s + 0.02)


def test_the_replica_with_the_fewest_answers_to_give_is_chosen():
    flow = controller("r1", "r2", limits=replace(LIMITS, requests_per_replica=8))
    flow.submit(Ticket("many", 0, 0.0, answers=3), 0.0)
    chosen = [submit(flow, name)[0].lease.replica_id for name in "abcd"]
    assert chosen == ["r2", "r2", "r2", "r1"]


def test_the_replica_with_the_fewest_leases_is_chosen():
    flow = controller("r1", "r2", limits=replace(LIMITS, requests_per_replica=2))
    chosen = [submit(flow, name)[0].lease.replica_id for name in "abcd"]
    assert chosen == ["r1", "r2", "r1", "r2"]


def test_a_queued_ticket_that_is_submitted_again_keeps_its_place():
    flow = controller("r")
    for name in "abc":
        submit(flow, name)
    assert submit(flow, "b", at_s=5.0) == []
    assert flow.close("a", Outcome.COMPLETED, 5.0) == [granted("b", queue_wait_s=5.0)]


def test_a_running_ticket_that_is_submitted_again_gets_the_same_lease():
    flow = controller("r")
    [first] = submit(flow, "a")
    assert submit(flow, "a") == [first._replace(again=True)]
    assert flow.snapshot(0.0).in_flight == 1


def test_a_full_queue_refuses_a_newcomer_that_is_no_more_urgent():
    flow = controller("r")
    for name in "abc":
        submit(flow, name)
    assert outcomes(submit(flow, "d")) == [("d", Outcome.REJECTED_FULL)]


def test_a_full_queue_gives_the_place_of_its_last_to_a_more_urgent_newcomer():
    flow = controller("r")
    for name in "abc":
        submit(flow, name)
    assert outcomes(submit(flow, "d", priority=-1)) == [("c", Outcome.EVICTED_PREEMPTED)]
    assert flow.close("a", Outcome.COMPLETED, 0.0) == [granted("d", class_name="interactive")]


def test_a_queued_ticket_can_be_closed_and_is_then_forgotten():
    flow = controller("r")
    submit(flow, "a")
    submit(flow, "b")
    assert flow.close("b", Outcome.CANCELLED, 0.0) == []
    assert flow.close("a", Outcome.COMPLETED, 0.0) == []
    assert flow.snapshot(0.0).ended == {Outcome.CANCELLED: 1, Outcome.COMPLETED: 1}


def test_closing_an_unknown_ticket_changes_nothing():
    flow = controller("r")
    before = flow.snapshot(0.0)
    assert flow.close("nobody", Outcome.COMPLETED, 0.0) == []
    assert flow.snapshot(0.0) == before


def test_a_ticket_that_waits_too_long_is_refused_with_429():
    flow = controller("r")
    submit(flow, "a")
    submit(flow, "b")
    for second in range(1, 62):
        actions = report(flow, "r", "a", at_s=float(second)) + flow.tick(float(second))
    assert outcomes(actions) == [("b", Outcome.EVICTED_TIMEOUT)]
    assert actions[0].outcome.status == 429


def test_a_lease_that_no_report_names_expires_and_frees_its_place():
    flow = controller("r")
    submit(flow, "a")
    submit(flow, "b")
    for second in range(1, 16):
        assert report(flow, "r", at_s=float(second)) == []
        assert flow.tick(float(second)) == []
    assert flow.tick(15.5) == [granted("b", queue_wait_s=15.5)]
    assert flow.snapshot(15.5).ended == {Outcome.LEASE_EXPIRED: 1}


def test_a_lease_that_is_reported_lives_on():
    flow = controller("r")
    submit(flow, "a")
    for second in range(1, 100):
        report(flow, "r", "a", at_s=float(second))
        flow.tick(float(second))
    assert flow.snapshot(99.0).in_flight == 1


def test_without_an_engine_a_newcomer_is_refused_with_503():
    flow = controller()
    assert outcomes(submit(flow, "a", at_s=5.1)) == [("a", Outcome.REJECTED_NO_ENGINE)]


def test_a_young_controller_lets_tickets_wait_for_engines_that_have_yet_to_report():
    flow = FlowController(LIMITS, PATIENT)
    assert submit(flow, "a", at_s=100.0) == []
    assert flow.tick(101.0) == []
    assert report(flow, "r", at_s=101.5) == [granted("a", queue_wait_s=1.5)]


def test_a_young_controller_that_hears_of_no_engine_refuses_what_waits():
    flow = FlowController(LIMITS, PATIENT)
    submit(flow, "a", at_s=100.0)
    assert flow.tick(105.0) == []
    assert outcomes(flow.tick(105.1)) == [("a", Outcome.EVICTED_NO_ENGINE)]


def test_a_draining_replica_keeps_its_leases_and_gets_no_new_ones():
    flow = controller("r", "s", limits=replace(LIMITS, requests_per_replica=5))
    submit(flow, "a")
    report(flow, "r", "a", at_s=1.0, draining=True)
    assert [submit(flow, name, at_s=1.0)[0].lease.replica_id for name in "bc"] == ["s", "s"]
    assert flow.snapshot(1.0).in_flight_by_replica == {"r": 1, "s": 2}


def test_what_waits_for_the_successor_of_an_engine_that_drains_waits_on():
    flow = controller("r")
    submit(flow, "a")
    submit(flow, "b", at_s=1.0)
    report(flow, "r", "a", at_s=1.0, draining=True)
    assert submit(flow, "c", at_s=1.5) == []
    assert flow.tick(2.0) == []
    # An application that sleeps otherwise has to be woken by what waits.
    assert not flow.asleep(2.0), "there may be others that it has yet to hear of"
    assert flow.asleep(LIMITS.replica_ttl_s + 0.1)
    assert report(flow, "s", at_s=2.5) == [granted("b", "s", queue_wait_s=1.5)]


def test_the_death_of_a_replica_ends_its_leases_and_leaves_the_queue_to_the_others():
    flow = controller("r", "s")
    for name in "abc":
        submit(flow, name)
    assert flow.replica_gone("r", 1.0) == []
    assert flow.snapshot(1.0).ended == {Outcome.FAILED: 1}
    assert flow.close("b", Outcome.COMPLETED, 1.0) == [granted("c", "s", 1.0)]


def test_the_death_of_a_replica_lets_run_who_waited_for_what_it_ran():
    flow = FlowController(LIMITS, replace(PATIENT, tenants={"a": TenantPolicy(max_running=1)}), lambda: 0.0)
    for replica_id in "rs":
        report(flow, replica_id, at_s=0.0)
    flow.submit(Ticket("runs", 0, 0.0, tenant="a"), 0.0)
    assert flow.submit(Ticket("waits", 0, 0.0, tenant="a"), 0.0) == []
    assert flow.replica_gone("r", 1.0) == [granted("waits", "s", 1.0)]


def test_the_death_of_the_last_replica_refuses_what_waits():
    flow = controller("r")
    old_s = LIMITS.replica_ttl_s + 1.0
    report(flow, "r", at_s=old_s)
    submit(flow, "a", at_s=old_s)
    submit(flow, "b", at_s=old_s)
    assert outcomes(flow.replica_gone("r", old_s + 1.0)) == [("b", Outcome.EVICTED_NO_ENGINE)]
    assert flow.snapshot(old_s + 1.0).in_flight_by_replica == {}


def test_an_engine_is_expected_until_it_is_there():
    flow = controller()
    flow.capacity_starting("r", 60.0, 0.0)
    assert (flow.expects("r"), flow.expects("s")) == (True, False)
    report(flow, "r", at_s=1.0)
    assert not flow.expects("r")


def test_a_young_controller_that_hears_of_a_death_first_may_yet_hear_of_others():
    flow = controller("r")
    submit(flow, "a")
    submit(flow, "b")
    assert flow.replica_gone("r", 0.3) == []
    assert report(flow, "s", at_s=0.9) == [granted("b", "s", 0.9)]


def test_after_the_death_of_the_last_replica_waits_who_can_for_one_that_starts():
    flow = controller("r")
    old_s = LIMITS.replica_ttl_s + 1.0
    report(flow, "r", at_s=old_s)
    submit(flow, "a", at_s=old_s)
    submit(flow, "patient", at_s=old_s)
    flow.submit(Ticket("hasty", 0, old_s, ttft_budget_s=5.0), old_s)
    flow.capacity_starting("s", old_s + 8.0, old_s)
    [refused] = flow.replica_gone("r", old_s + 1.0)
    assert (refused.ticket_id, refused.outcome) == ("hasty", Outcome.EVICTED_NO_ENGINE)
    assert 7 <= refused.retry_after_s <= 8
    assert flow.replica_gone("nobody", old_s + 2.0) == []
    assert report(flow, "s", at_s=old_s + 8.0) == [granted("patient", "s", 8.0)]


def test_a_young_controller_does_not_give_up_for_those_that_it_has_yet_to_hear_of():
    flow = controller("r")
    submit(flow, "a")
    submit(flow, "b")
    flow.capacity_starting("s", 500.0, 1.0)
    assert flow.replica_gone("r", 1.0) == []


def test_who_waits_too_long_for_an_engine_that_starts_is_told_that_there_is_none():
    flow = controller("r")
    submit(flow, "a")
    submit(flow, "b")
    flow.capacity_starting("s", 5.0, 1.0)
    flow.replica_gone("r", 1.0)
    [refused] = flow.tick(LIMITS.max_queue_wait_s + 1.0)
    # It is overdue: expected in as long again.
    retry_after_s = LIMITS.max_queue_wait_s + 1.0 - 5.0
    assert (refused.outcome, refused.retry_after_s) == (Outcome.EVICTED_NO_ENGINE, retry_after_s)


def test_the_death_of_an_unknown_replica_changes_nothing():
    assert controller("r").replica_gone("s", 0.0) == []


def test_a_report_that_arrives_after_the_death_of_its_replica_does_not_revive_it():
    flow = controller("r")
    submit(flow, "a")
    flow.replica_gone("r", 1.0)
    assert report(flow, "r", "a", at_s=1.1) == []
    assert flow.snapshot(1.1).replicas_ready == 0
    assert flow.snapshot(1.1).in_flight == 0


def test_a_replica_that_goes_on_reporting_long_after_it_was_taken_for_dead_lives():
    """One gateway could not reach it. What it ran has ended here, and is not counted twice."""
    flow = controller("r", limits=replace(LIMITS, requests_per_replica=2))
    submit(flow, "a")
    flow.replica_gone("r", 1.0)
    report(flow, "r", "a", at_s=1.0 + LATE_REPORT_S)
    assert flow.snapshot(11.0).replicas_ready == 0
    report(flow, "r", "a", at_s=1.1 + LATE_REPORT_S)
    assert flow.snapshot(11.2).in_flight_by_replica == {"r": 0}
    assert submit(flow, "b", at_s=11.2) == [granted("b")]
    flow.replica_gone("r", 12.0)
    report(flow, "r", at_s=13.0)
    assert flow.snapshot(13.0).replicas_ready == 0


def test_a_silent_replica_gets_no_leases_and_keeps_its_own():
    flow = controller("r", limits=replace(LIMITS, requests_per_replica=2))
    submit(flow, "a")
    flow.tick(6.0)
    assert outcomes(submit(flow, "b", at_s=6.0)) == [("b", Outcome.REJECTED_NO_ENGINE)]
    assert flow.snapshot(6.0).in_flight_by_replica == {"r": 1}
    report(flow, "r", "a", at_s=7.0)
    assert submit(flow, "c", at_s=7.0) == [granted("c")]
    flow.close("a", Outcome.COMPLETED, 8.0)
    assert flow.snapshot(8.0).ended == {Outcome.COMPLETED: 1, Outcome.REJECTED_NO_ENGINE: 1}


def test_when_the_last_replica_falls_silent_what_waits_is_refused():
    flow = controller("r")
    submit(flow, "a")
    submit(flow, "b")
    assert flow.tick(5.0) == []
    assert outcomes(flow.tick(5.1)) == [("b", Outcome.EVICTED_NO_ENGINE)]


def test_after_a_restart_what_waited_goes_on_in_its_order_in_whatever_order_it_comes_back():
    flow = FlowController(replace(LIMITS, max_queued=10), PATIENT, lambda: 0.0)
    flow.tick(100.0)
    for ticket_id, arrived_s in (("c", 93.0), ("a", 91.0), ("d", 94.0), ("b", 92.0)):
        assert flow.submit(Ticket(ticket_id, 0, arrived_s), 100.5) == []
    order = report(flow, "r", at_s=101.0)
    for ticket_id in "abc":
        order += flow.close(ticket_id, Outcome.COMPLETED, 102.0)
    assert [granted_.lease.ticket_id for granted_ in order] == ["a", "b", "c", "d"]


def test_bodies_of_all_tenants_together_are_bounded_and_room_comes_back_with_each_end():
    flow = controller("r", limits=replace(LIMITS, max_bytes=100))

    def send(name: str, size_bytes: int):
        return flow.submit(Ticket(name, 0, 0.0, tenant=name, size_bytes=size_bytes), 0.0)

    assert send("a", 60) == [granted("a")]
    assert send("b", 40) == []
    assert outcomes(send("c", 1)) == [("c", Outcome.REJECTED_FULL)]
    flow.close("b", Outcome.CANCELLED, 0.0)
    assert send("d", 40) == []
    assert outcomes(send("e", 1)) == [("e", Outcome.REJECTED_FULL)]
    assert flow.close("a", Outcome.COMPLETED, 0.0) == [granted("d")]
    assert send("f", 60) == []


def test_what_a_dead_caller_has_in_the_queue_is_closed_and_so_is_a_lease_that_nobody_uses():
    flow = controller("r", "s")

    def send(name: str, caller: str):
        return flow.submit(Ticket(name, 0, 0.0, caller=caller), 0.0)

    send("used", "dead")
    send("unused", "dead")
    report(flow, "r", "used", at_s=1.0)
    send("waits", "dead")
    send("lives", "living")
    assert flow.caller_gone("dead", 2.0) == [granted("lives", "s", queue_wait_s=2.0)]
    snapshot = flow.snapshot(2.0)
    assert (snapshot.queued, snapshot.in_flight) == (0, 2)
    assert snapshot.ended == {Outcome.CANCELLED: 2}


def test_a_lease_with_a_first_token_is_known_to_its_engine():
    flow = controller("r")
    submit(flow, "a")
    flow.first_tokens([("a", 0.5)], 0.5)
    report(flow, "r", at_s=1.0)
    report(flow, "r", at_s=2.0)
    assert flow.snapshot(2.0).ended == {Outcome.LEASE_EXPIRED: 1}


def test_a_lease_that_two_reports_no_longer_name_has_ended_and_its_place_is_free():
    """Its gateway died: the engine has let go of the request, and nobody is left to close it."""
    flow = controller("r")
    submit(flow, "a")
    report(flow, "r", "a", at_s=1.0)
    submit(flow, "b", at_s=1.5)
    assert report(flow, "r", at_s=2.0) == []
    assert report(flow, "r", at_s=3.0) == [granted("b", queue_wait_s=1.5)]
    assert flow.snapshot(3.0).ended == {Outcome.LEASE_EXPIRED: 1}


def test_a_lease_that_one_report_misses_lives_on():
    """A report may be under way while the request begins; its close, while the request ends."""
    flow = controller("r")
    submit(flow, "a")
    for at_s, leases in ((1.0, ["a"]), (2.0, []), (3.0, ["a"]), (4.0, [])):
        report(flow, "r", *leases, at_s=at_s)
    assert flow.snapshot(4.0).in_flight == 1
    flow.close("a", Outcome.COMPLETED, 4.1)
    assert flow.snapshot(4.1).ended == {Outcome.COMPLETED: 1}


def test_a_lease_that_no_report_has_named_yet_waits_for_its_request():
    flow = controller("r")
    submit(flow, "a")
    for at_s in (1.0, 2.0, 3.0, 4.0):
        report(flow, "r", at_s=at_s)
    assert flow.snapshot(4.0).in_flight == 1


def test_a_lease_that_expired_is_not_adopted_again_from_its_own_replica():
    flow = controller("r")
    submit(flow, "a")
    flow.tick(16.0)
    report(flow, "r", "a", at_s=17.0)
    assert flow.snapshot(17.0).in_flight == 0
    assert flow.snapshot(17.0).ended == {Outcome.LEASE_EXPIRED: 1}


def test_a_silent_replica_without_leases_is_not_shown_and_later_forgotten():
    flow = controller("r")
    assert flow.snapshot(6.0).in_flight_by_replica == {}
    flow.tick(REPLICA_MEMORY_S + 1.0)
    report(flow, "r", "old", at_s=REPLICA_MEMORY_S + 2.0)
    assert flow.snapshot(REPLICA_MEMORY_S + 2.0).in_flight == 1


def test_a_replica_that_is_forgotten_takes_its_free_places_with_it():
    flow = controller("r")
    flow.tick(REPLICA_MEMORY_S + 1.0)
    assert (flow._pool.free, flow._pool.open) == (0, [])


def test_the_first_report_of_a_replica_brings_its_running_leases():
    flow = controller()
    report(flow, "r", "a", at_s=1.0)
    assert submit(flow, "b", at_s=1.0) == []
    assert flow.close("a", Outcome.COMPLETED, 2.0) == [granted("b", queue_wait_s=1.0)]


def test_a_later_report_does_not_bring_back_a_lease_that_was_closed_meanwhile():
    flow = controller("r")
    submit(flow, "a")
    flow.close("a", Outcome.COMPLETED, 1.0)
    report(flow, "r", "a", at_s=1.1)
    assert flow.snapshot(1.1).in_flight == 0


def test_a_first_report_does_not_take_a_ticket_that_waits_here():
    flow = controller("r")
    submit(flow, "a")
    submit(flow, "b")
    actions = report(flow, "s", "b", at_s=1.0)
    assert actions == [granted("b", "s", 1.0)]
    assert flow.snapshot(1.0).in_flight == 2


def test_a_replica_that_calls_cannot_reach_is_passed_over_for_a_moment():
    flow = controller("r")
    flow.replica_unroutable("r", 0.0)
    assert submit(flow, "a") == []
    assert flow.tick(FIRST_BAR_S / 2) == []
    assert flow.tick(FIRST_BAR_S) == [granted("a", queue_wait_s=FIRST_BAR_S)]


def test_a_replica_that_stays_out_of_reach_is_asked_ever_less_often():
    flow = controller("r")
    now_s = 0.0
    for pause_s in (1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        report(flow, "r", at_s=now_s)
        flow.replica_unroutable("r", now_s)
        # Calls that fail together count once.
        flow.replica_unroutable("r", now_s)
        assert flow._pool.replicas["r"].barred_until_s == now_s + pause_s
        now_s += pause_s


def test_a_replica_that_answers_is_in_reach_again():
    flow = controller("r")
    flow.replica_unroutable("r", 0.0)
    submit(flow, "a")
    flow.tick(FIRST_BAR_S)
    flow.first_tokens([("a", FIRST_BAR_S)], FIRST_BAR_S)
    flow.replica_unroutable("r", FIRST_BAR_S)
    assert flow._pool.replicas["r"].barred_until_s == 2 * FIRST_BAR_S


def test_barring_an_unknown_replica_changes_nothing():
    flow = controller("r")
    flow.replica_unroutable("s", 0.0)
    assert submit(flow, "a") == [granted("a")]


def test_draining_refuses_what_waits_and_what_comes_and_lets_run_what_runs():
    flow = controller("r")
    submit(flow, "a")
    submit(flow, "b")
    assert outcomes(flow.drain(1.0)) == [("b", Outcome.EVICTED_DRAINING)]
    assert outcomes(submit(flow, "c", at_s=1.0)) == [("c", Outcome.REJECTED_DRAINING)]
    assert submit(flow, "a", at_s=1.0)[0].lease == Lease("a", "r")
    assert flow.snapshot(1.0).in_flight == 1


def test_the_retry_hint_follows_the_time_that_answers_take():
    flow = controller("r")
    at_s = 0.0
    for index in range(100):
        submit(flow, str(index), at_s=at_s)
        at_s += 4.0
        report(flow, "r", str(index), at_s=at_s)
        flow.close(str(index), Outcome.COMPLETED, at_s)
    for name in "abc":
        submit(flow, name, at_s=at_s)
    # Three ahead (two queued and the newcomer's own place) at four seconds each.
    assert submit(flow, "d", at_s=at_s)[0].retry_after_s == 12


def test_the_retry_hint_learns_nothing_from_a_cancelled_request():
    flow = controller("r")
    submit(flow, "a")
    flow.close("a", Outcome.CANCELLED, 4.0)
    for name in "bcd":
        submit(flow, name, at_s=4.0)
    assert submit(flow, "e", at_s=4.0)[0].retry_after_s == 3 * PATIENT.admission.initial_service_s


def test_the_retry_hint_has_a_ceiling():
    flow = controller("r", limits=replace(LIMITS, max_queued=1000))
    for index in range(1001):
        submit(flow, str(index))
    assert submit(flow, "last")[0].retry_after_s == MAX_RETRY_AFTER_S


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_has_a_label_of_its_own_and_a_reason(outcome: Outcome):
    assert outcome.label == outcome.name.lower()
    assert outcome.reason.endswith(".")
    assert outcome.refuses == outcome.label.startswith(("rejected", "evicted"))
    assert outcome.status in ((400, 413, 429, 503) if outcome.refuses else (None,))


def test_a_tenant_at_its_cap_waits_beside_a_free_place_until_one_of_its_own_ends():
    config = replace(PATIENT, tenants={"capped": TenantPolicy(max_running=1)})
    flow = FlowController(replace(LIMITS, requests_per_replica=2), config, lambda: 0.0)
    report(flow, "r", at_s=0.0)
    first, second = (Ticket(name, 0, 0.0, tenant="capped") for name in ("a", "b"))
    assert flow.submit(first, 0.0) == [granted("a")]
    assert flow.submit(second, 0.0) == []
    assert submit(flow, "c") == [granted("c")]
    assert flow.close("a", Outcome.COMPLETED, 1.0) == [granted("b", queue_wait_s=1.0)]


def test_a_tenants_cap_counts_answers_and_its_last_request_may_bring_several():
    config = replace(PATIENT, tenants={"capped": TenantPolicy(max_running=3)})
    flow = FlowController(replace(LIMITS, requests_per_replica=20), config, lambda: 0.0)
    report(flow, "r", at_s=0.0)
    two, five, one = (Ticket(f"{n}", 0, 0.0, tenant="capped", answers=n) for n in (2, 5, 1))
    assert flow.submit(two, 0.0) == [granted("2")]
    assert flow.submit(five, 0.0) == [granted("5")]
    assert flow.submit(one, 0.0) == []
    assert flow.close("2", Outcome.COMPLETED, 1.0) == []
    assert flow.close("5", Outcome.COMPLETED, 2.0) == [granted("1", queue_wait_s=2.0)]
    flow.close("1", Outcome.COMPLETED, 3.0)
    assert flow.detail(9, 3.0).tenants == ()


def test_a_tenant_that_was_passed_over_at_its_cap_is_next_when_one_of_its_own_ends():
    config = replace(PATIENT, tenants={"capped": TenantPolicy(max_running=1)})
    flow = FlowController(replace(LIMITS, requests_per_replica=2), config, lambda: 0.0)
    report(flow, "r", at_s=0.0)
    for name, tenant in (("a", "capped"), ("x", "other"), ("b", "capped"), ("y", "other")):
        flow.submit(Ticket(name, 0, 0.0, tenant=tenant), 0.0)
    assert flow.close("x", Outcome.COMPLETED, 1.0) == [granted("y", queue_wait_s=1.0)]
    assert flow.close("y", Outcome.COMPLETED, 2.0) == []
    assert flow.close("a", Outcome.COMPLETED, 3.0) == [granted("b", queue_wait_s=3.0)]


def test_a_tenant_that_comes_and_goes_at_its_cap_leaves_nothing_behind():
    config = replace(PATIENT, tenants={"a": TenantPolicy(max_running=1)})
    flow = FlowController(replace(LIMITS, requests_per_replica=4), config, lambda: 0.0)
    report(flow, "r", at_s=0.0)
    flow.submit(Ticket("runs", 0, 0.0, "a"), 0.0)
    for number in range(20):
        flow.submit(Ticket(f"t{number}", 0, 1.0, "a"), 1.0)
        flow.tick(1.0)
        flow.close(f"t{number}", Outcome.CANCELLED, 1.0)
    assert len(flow._tenants.get("a", 1.0).parked) <= 1


def test_more_than_may_wait_for_the_first_engine_is_refused_until_it_is_expected():
    flow = FlowController(replace(LIMITS, max_queued_without_engine=1), FlowConfig(), lambda: 0.0)
    flow.capacity_starting("r", 20.0, 0.0)
    assert flow.asleep(0.0) is False
    assert flow.submit(Ticket("a", 0, 0.0, class_name="batch"), 0.0) == []
    [refused] = flow.submit(Ticket("b", 0, 5.0, class_name="batch"), 5.0)
    assert (refused.outcome, refused.retry_after_s) == (Outcome.REJECTED_NO_ENGINE, 15)


def test_the_load_counts_what_arrived_and_what_was_refused_as_late():
    flow = FlowController(LIMITS, FlowConfig(), lambda: 0.0)
    flow.report(ReplicaReport("r", frozenset()), 0.0)
    flow.submit(Ticket("a", 0, 0.0), 0.0)
    load = flow.load(30.0, 1.0)
    assert (load.running, load.in_flight, load.start_s) == (1, 1, 30.0)
    assert load.offered_per_s > 0


def test_a_person_sees_who_has_something_in_the_system():
    flow = FlowController(replace(LIMITS, requests_per_replica=1), FlowConfig(), lambda: 0.0)
    flow.report(ReplicaReport("r", frozenset()), 0.0)
    flow.submit(Ticket("a", 0, 0.0, tenant="one"), 0.0)
    flow.submit(Ticket("b", 0, 0.0, tenant="two"), 0.0)
    detail = flow.detail(9, 1.0)
    assert {one.name: (sum(one.queued), one.running) for one in detail.tenants} == {
        "one": (0, 1),
        "two": (1, 0),
    }
    assert [one.name for one in flow.detail(1, 1.0).tenants] == [detail.tenants[0].name]


class TestUnreached:
    """Engines that can't be reached have no places, whatever the last count said."""

    def two_of_which_one_is_silent(self) -> FlowController:
        flow = controller("r", "silent", limits=replace(LIMITS, requests_per_replica=4))
        report(flow, "r", at_s=6.0)
        flow.tick(6.0)
        return flow

    def test_a_silent_one(self):
        flow = self.two_of_which_one_is_silent()
        assert flow._pool.free == flow._pool.places == 4
        report(flow, "silent", at_s=7.0)
        assert flow._pool.free == flow._pool.places == 8

    def test_a_barred_one(self):
        flow = controller("r", "s", limits=replace(LIMITS, requests_per_replica=4))
        flow.replica_unroutable("s", 1.0)
        assert flow._pool.free == 4
        flow.tick(1.0 + FIRST_BAR_S)
        assert flow._pool.free == 8

    def test_what_ends_on_a_silent_one_frees_no_place(self):
        flow = controller("r", limits=replace(LIMITS, requests_per_replica=4))
        submit(flow, "a")
        flow.tick(6.0)
        flow.close("a", Outcome.FAILED, 6.0)
        assert flow._pool.free == 0


def test_a_pause_of_the_process_is_nobodys_silence():
    flow = controller("r")
    submit(flow, "a")
    report(flow, "r", "a", at_s=1.0)
    flow.skip(100.0)
    assert flow.tick(101.5) == []
    assert flow.snapshot(101.5).in_flight == 1
    assert submit(flow, "b", at_s=101.5) == []
    # The clock is set back.
    flow.skip(-100.0)
    assert flow.close("a", Outcome.COMPLETED, 2.0)[0].lease == Lease("b", "r")


class TestCapped:
    """A tenant at its cap stands in nobody's way."""

    CONFIG = replace(PATIENT, tenants={"a": TenantPolicy(max_running=1)})

    def flow(self, **limits: int) -> FlowController:
        flow = FlowController(replace(LIMITS, requests_per_replica=4, **limits), self.CONFIG, lambda: 0.0)
        flow.tick(0.0)
        report(flow, "r", at_s=0.0)
        flow.submit(Ticket("runs", 0, 0.0, "a"), 0.0)
        return flow

    def test_not_with_a_queue_that_it_has_filled(self):
        flow = self.flow(max_queued=1)
        assert flow.submit(Ticket("waits", 0, 0.0, "a"), 0.0) == []
        assert submit(flow, "other") == [granted("other")]

    def test_not_with_a_place_that_is_kept_for_it(self):
        """It comes to the lane while it may run, and is at its cap when its turn has come."""
        flow = self.flow()
        flow.close("runs", Outcome.COMPLETED, 0.0)
        for name in "bcde":
            submit(flow, name)
        for name in ("m1", "m2"):
            assert flow.submit(Ticket(name, 1, 0.0, "a", moved=True), 0.0) == []
        assert [one.lease.ticket_id for one in flow.close("b", Outcome.COMPLETED, 1.0)] == ["m1"]
        assert submit(flow, "urgent", -1, at_s=1.0) == []
        assert flow.submit(Ticket("plain", 1, 0.5), 1.0)[0].outcome is Outcome.REJECTED_FULL
        assert [one.lease.ticket_id for one in flow.close("c", Outcome.COMPLETED, 1.0)] == ["urgent"]

    def test_not_with_several_places_that_are_kept_for_it(self):
        config = self.CONFIG
        flow = FlowController(replace(LIMITS, requests_per_replica=2, max_queued=9), config, lambda: 0.0)
        report(flow, "r", at_s=0.0)
        for name in ("x1", "x2"):
            submit(flow, name)
        for name, tenant in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            assert flow.submit(Ticket(name, 0, 0.0, tenant, moved=True), 0.0) == []
        order = [flow.close(name, Outcome.COMPLETED, 1.0) for name in ("x1", "x2", "b1", "a1")]
        assert [[one.lease.ticket_id for one in granted] for granted in order] == [["a1"], ["b1"], [], ["a2"]]


def test_a_clock_that_is_set_back_stops_no_shrinking_of_what_an_engine_gets():
    flow = controller(limits=replace(LIMITS, requests_per_replica=40))
    full = EngineMetrics(running=1, waiting=0, kv_use=0.99)
    flow.report(ReplicaReport("r", frozenset(), metrics=full), 3600.0)
    flow.skip(-3600.0)
    flow.report(ReplicaReport("r", frozenset(), metrics=full), 3.0)
    assert flow.snapshot(3.0).limit_by_replica == {"r": 32}


def test_what_an_adopted_lease_takes_of_the_cache_is_known_from_the_report():
    flow = controller("r", limits=replace(LIMITS, requests_per_replica=9))
    metrics = EngineMetrics(running=2, waiting=0, kv_use=0.9, kv_capacity_tokens=1000)
    flow.report(ReplicaReport("s", frozenset({"x", "y"}), metrics=metrics), 0.0)
    replica = flow._pool.replicas["s"]
    assert replica.tokens == 900
    assert not replica.fits(100)
    flow.close("x", Outcome.COMPLETED, 1.0)
    assert replica.tokens == 450
    # How long it has run is not known: it teaches nothing.
    assert flow._predictor._service_s.value == PATIENT.admission.initial_service_s


def test_it_is_ready_while_an_engine_can_take_a_lease():
    flow = controller()
    assert not flow.ready
    flow.report(ReplicaReport("r", frozenset()), 0.0)
    assert flow.ready
    flow.report(ReplicaReport("r", frozenset(), draining=True), 1.0)
    assert not flow.ready
