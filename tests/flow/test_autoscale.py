"""Engines asked for by a load: when, how many, why, and when not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.flow import COMPILED
from app.flow.autoscale import (
    LATENCY_WINDOW_S,
    LONG_MEMORY,
    Autoscaler,
    Decision,
    Load,
    Reason,
    ScalePolicy,
    lean,
)
from app.flow.estimate import DecayedRate
from tests.loads import IDLE

# What is late shows for the whole window, however short it was.
LASTING_S = IDLE.start_s + LATENCY_WINDOW_S
POLICY = ScalePolicy(
    min_replicas=1,
    max_replicas=64,
    target_queue_depth=8.0,
    use_high=0.9,
    use_low=0.7,
    upscale_delay_s=1.0,
    downscale_delay_s=300.0,
    need_share=0.95,
    clear_starts=1.0,
    latency_high=0.9,
    step_s=10.0,
)


def load(need: float, running: int, in_flight: int = 1, **changes: object) -> Load:
    """So many engines' worth of requests."""
    return replace(IDLE, offered_per_s=need, running=running, in_flight=in_flight, **changes)


class Run:
    """An autoscaler and its clock: what is asked for starts at once."""

    def __init__(self, policy: ScalePolicy = POLICY, replicas: int = 1) -> None:
        self.autoscaler = Autoscaler(policy)
        self.replicas = replicas
        self.now_s = 1000.0
        self.changes: list[tuple[float, int, Reason]] = []

    def see(self, need: float, seconds: float = 1.0, **changes: object) -> Decision:
        for _ in range(round(seconds)):
            self.now_s += 1.0
            decision = self.autoscaler.decide(load(need, self.replicas, **changes), self.now_s)
            if decision.target != self.replicas:
                self.changes.append((self.now_s, decision.target, decision.reason))
            self.replicas = decision.target
        return decision


def settled(replicas: int, need: float, policy: ScalePolicy = POLICY) -> Run:
    """A run that has carried this load for as long as it remembers."""
    run = Run(policy, replicas)
    run.see(need, policy.downscale_delay_s + 60)
    run.changes.clear()
    return run


class TestWithoutData:
    def test_nothing_is_known_at_first_so_the_least_is_asked_for(self):
        assert Autoscaler(POLICY).decide(None, 0.0) == Decision(1, Reason.NO_DATA, 1)

    def test_the_last_target_is_held(self):
        run = settled(3, 2.4)
        assert run.autoscaler.decide(None, run.now_s + 1.0) == Decision(3, Reason.NO_DATA, 3)

    def test_after_a_restart_what_runs_and_starts_is_what_was_wanted(self):
        decision = Autoscaler(POLICY).decide(load(0.0, 3, starting=2), 0.0)
        assert (decision.target, decision.reason) == (5, Reason.STEADY)

    def test_after_a_restart_engines_that_are_heard_of_late_are_kept(self):
        autoscaler = Autoscaler(POLICY)
        for second, running in enumerate((1, 3, 5, 4)):
            decision = autoscaler.decide(load(0.0, running), 10.0 * second)
        assert decision.target == 5

    @pytest.mark.parametrize(("start_s", "at_s", "target"), [(60, 250, 4), (60, 350, 2), (200, 350, 4)])
    def test_after_a_restart_engines_that_were_starting_unheard_are_kept_when_they_run(
        self, start_s, at_s, target
    ):
        autoscaler = Autoscaler(replace(POLICY, downscale_delay_s=600.0))
        autoscaler.decide(load(0.0, 2, start_s=start_s), 0.0)
        assert autoscaler.decide(load(0.0, 4, start_s=start_s), at_s).target == target

    def test_long_after_a_restart_a_start_is_nobodys_wish(self):
        """It may have failed without a word, again and again."""
        autoscaler = Autoscaler(POLICY)
        autoscaler.decide(load(0.0, 2), 0.0)
        assert autoscaler.decide(load(0.0, 2, starting=3), 61.0).target == 2

    def test_what_a_new_scheduler_has_given_up_is_not_what_was_wanted(self):
        """It still runs for a moment."""
        autoscaler = Autoscaler(replace(POLICY, downscale_delay_s=30.0))
        targets = [autoscaler.decide(load(0.5, 4), float(second)).target for second in range(40)]
        assert targets == [4] * 30 + [3] * 10

    def test_after_a_restart_the_bounds_hold(self):
        assert Autoscaler(replace(POLICY, max_replicas=2)).decide(load(0.0, 5), 0.0).target == 2
        assert Autoscaler(replace(POLICY, min_replicas=4)).decide(load(0.0, 1), 0.0).target == 4


class TestQueue:
    def test_a_deep_queue_has_one_engine_started_within_the_delay(self):
        run = settled(2, 1.2)
        assert run.see(1.2, queued=17, drain_s=61.0).target == 2
        decision = run.see(1.2, queued=17, drain_s=61.0)
        assert (decision.target, decision.reason) == (3, Reason.QUEUE)

    def test_a_queue_that_is_tolerated_asks_for_nothing(self):
        run = settled(2, 1.2)
        assert run.see(1.2, 30, queued=16, drain_s=99.0).target == 2

    def test_a_queue_that_is_gone_before_an_engine_could_come_asks_for_none(self):
        run = settled(2, 1.2)
        assert run.see(1.2, 30, queued=40, drain_s=59.0).target == 2

    def test_some_are_in_reserve_for_the_next_burst(self):
        run = settled(2, 1.2, replace(POLICY, clear_starts=0.5))
        assert run.see(1.2, 30, queued=40, drain_s=30.0).target == 2
        assert run.see(1.2, queued=40, drain_s=45.0).target == 3

    def test_a_deep_queue_asks_for_no_more_than_still_have_work_when_they_come(self):
        run = settled(8, 6.0)
        # A hundred engines could take them at once, but in one start twelve do the work of eight.
        decision = run.see(6.0, 2, queued=2000, drain_s=90.0)
        assert (decision.target, decision.reason) == (12, Reason.QUEUE)
        assert settled(8, 6.0).see(6.0, 2, queued=2000, drain_s=9999.0).target == 16

    def test_a_queue_that_was_gone_in_between_begins_anew(self):
        run = settled(2, 1.2)
        for queued in (17, 0, 17, 0, 17):
            assert run.see(1.2, queued=queued, drain_s=99.0).target == 2

    def test_what_starts_already_takes_its_part(self):
        run = settled(3, 1.2)
        scaler = run.autoscaler
        for second in range(10):
            # 26 wait, 16 are tolerated, 10 find a place on the engine that starts.
            decision = scaler.decide(load(1.2, 2, starting=1, queued=26, drain_s=99.0), run.now_s + second)
        assert decision.target == 3

    def test_a_burst_is_answered_once_though_what_it_asked_for_has_yet_to_start(self):
        run = settled(1, 0.5)
        targets = [1]
        for _ in range(100):
            run.now_s += 1.0
            burst = load(0.5, 1, starting=targets[-1] - 1, queued=152, places_per_replica=8.0, drain_s=9999.0)
            targets.append(run.autoscaler.decide(burst, run.now_s).target)
        # One tolerates 8, nine that start take 8 each and tolerate as many.
        assert sorted(set(targets)) == [1, 2, 4, 8, 10]

    def test_starts_that_are_nobodys_answer_ask_for_no_more(self):
        run = settled(3, 1.2)
        for second in range(10):
            ghosts = load(1.2, 2, starting=9, queued=26, drain_s=99.0)
            decision = run.autoscaler.decide(ghosts, run.now_s + second)
        assert decision.target == 3

    def test_only_the_queue_counts_where_it_is_told_so(self):
        run = settled(2, 0.5, replace(POLICY, queue_only=True, min_replicas=2))
        assert run.see(9.0, 60, ttft_over_slo=5.0, kv_use=1.0).target == 2

    @pytest.mark.parametrize(("queued", "target"), [(16, 2), (17, 3), (24, 3), (25, 4), (80, 4)])
    def test_the_queue_alone_asks_in_proportion_at_most_twice_as_many(self, queued, target):
        run = settled(2, 0.5, replace(POLICY, queue_only=True, min_replicas=2))
        assert run.see(0.5, 2, queued=queued).target == target


class TestLoad:
    def test_more_engines_come_for_what_arrives(self):
        run = settled(2, 1.2, replace(POLICY, lookahead=0.0))
        run.see(4.0, 120)
        # 4.0 / 0.9
        assert run.replicas == 5
        assert Reason.USE in {reason for _, _, reason in run.changes}

    def test_a_rise_is_answered_before_it_is_there(self):
        """A start takes a minute or none; the load grows by one engine in two hundred seconds, for long."""
        fifth = []
        for start_s in (0.0, 60.0):
            run = settled(2, 1.2)
            for second in range(700):
                run.see(1.2 + 0.005 * second, start_s=start_s)
            fifth += [change for change in run.changes if change[1] == 5]
        late, early = fifth
        assert early[2] is Reason.TREND
        assert late[0] - early[0] > 30

    def test_a_fall_leads_nowhere(self):
        run = settled(4, 3.0)
        assert run.see(0.1, 30).target == 4

    def test_latency_over_its_promise_asks_for_more_once_it_has_lasted_a_start(self):
        run = settled(4, 3.0)
        assert run.see(3.0, LASTING_S, ttft_over_slo=1.08).target == 4
        decision = run.see(3.0, ttft_over_slo=1.08)
        assert (decision.target, decision.reason) == (5, Reason.LATENCY)

    def test_slow_tokens_are_latency_too(self):
        assert settled(4, 3.0).see(3.0, LASTING_S + 1, tpot_over_slo=9.0).target == 8

    def test_a_burst_that_is_over_before_an_engine_could_come_asks_for_none(self):
        run = settled(4, 3.0)
        for _ in range(5):
            run.see(3.0, LASTING_S - 1, ttft_over_slo=9.0)
            run.see(3.0, ttft_over_slo=0.1)
        assert not run.changes

    def test_latency_within_its_promise_asks_for_nothing(self):
        within = {"ttft_over_slo": 0.9, "tpot_over_slo": 0.1}
        assert settled(4, 3.0).see(3.0, 2 * LASTING_S, **within).reason is Reason.STEADY

    def test_latency_of_those_that_run_is_answered_once(self):
        run = settled(5, 3.9)
        for _ in range(round(2 * LASTING_S)):
            run.now_s += 1.0
            decision = run.autoscaler.decide(load(3.9, 4, starting=1, ttft_over_slo=1.08), run.now_s)
        assert decision.target == 5

    def test_a_queue_that_outlasts_a_budget_asks_for_more(self):
        drain = (("interactive", 0.1), ("batch", 1.3))
        decision = settled(4, 3.0).see(3.0, drain_over_budget=drain, drain_s=78.0)
        assert (decision.target, decision.reason) == (6, Reason.DRAIN)

    def test_a_full_cache_asks_for_more(self):
        decision = settled(4, 3.0).see(3.0, kv_use=0.95)
        assert (decision.target, decision.reason) == (5, Reason.KV_CACHE)
        assert settled(4, 3.0).see(3.0, kv_use=0.9).target == 4

    def test_a_full_cache_asks_for_more_where_nothing_is_in_reserve(self):
        decision = settled(4, 3.9, lean(POLICY)).see(3.9, kv_use=0.95)
        assert (decision.target, decision.reason) == (5, Reason.KV_CACHE)


class TestSteps:
    def test_a_step_at_most_doubles_and_the_next_one_waits(self):
        # No trend: half of a step is one, and would ask for something in between.
        run = settled(2, 1.2, replace(POLICY, trend_s=1e9))
        run.see(80.0, 61)
        at_s = [at_s for at_s, _, _ in run.changes]
        assert [target for _, target, _ in run.changes][-2:] == [32, 64]
        assert all(2 * a >= b for (_, a, _), (_, b, _) in pairwise(run.changes))
        assert all(after - before >= POLICY.step_s for before, after in pairwise(at_s))
        assert Reason.STEP_LIMIT in {reason for _, _, reason in run.changes}

    def test_the_maximum_holds_and_is_named(self):
        run = settled(2, 1.2, replace(POLICY, max_replicas=3))
        decision = run.see(40.0, 60)
        assert (decision.target, decision.reason) == (3, Reason.MAXIMUM)
        assert decision.wanted > 40

    def test_the_minimum_holds_and_is_named(self):
        run = settled(2, 1.2, replace(POLICY, min_replicas=2))
        decision = run.see(0.1, 1000)
        assert (decision.target, decision.reason) == (2, Reason.MINIMUM)

    def test_no_more_is_asked_for_than_can_be_placed_and_what_is_missing_is_named(self):
        run = settled(2, 1.2)
        decision = run.see(9.0, 60, placeable=3, missing="GPU: 8 on one node, 5 free")
        assert (decision.target, decision.reason) == (3, Reason.UNPLACEABLE)
        assert decision.missing == "GPU: 8 on one node, 5 free"

    def test_what_was_asked_for_is_not_taken_back_because_it_is_not_seen_yet(self):
        run = settled(4, 3.4)
        decision = run.see(3.8, 60, placeable=2, missing="GPU")
        assert (decision.target, decision.reason) == (4, Reason.UNPLACEABLE)


class TestDown:
    def test_an_engine_is_given_up_only_after_the_delay(self):
        run = settled(4, 3.0)
        run.see(1.0, POLICY.downscale_delay_s * 0.9)
        assert run.replicas == 4
        run.see(1.0, POLICY.downscale_delay_s)
        assert run.replicas < 4
        assert {reason for _, _, reason in run.changes} == {Reason.SURPLUS}

    def test_one_at_a_time_down_to_what_carries_the_load(self):
        run = settled(4, 3.0)
        run.see(1.0, 2000)
        assert [target for _, target, _ in run.changes] == [3, 2]

    def test_of_many_a_quarter_at_a_time(self):
        run = settled(32, 25.0)
        run.see(1.0, 700)
        assert [target for _, target, _ in run.changes][:2] == [24, 18]

    def test_of_many_a_quarter_at_a_time_also_where_fewer_than_the_least_would_do(self):
        policy = replace(POLICY, min_replicas=3)
        run = settled(16, 12.0, policy)
        run.see(0.5, 700)
        assert [target for _, target, _ in run.changes][:2] == [12, 9]

    @staticmethod
    def after_bursts(usual: float) -> Run:
        run = Run(replicas=4)
        # Where the first comes from is not known.
        for _ in range(4):
            run.see(usual, 100)
            run.see(3.4, 20)
        run.see(usual, 200)
        return run

    @pytest.mark.parametrize(("usual", "kept"), [(0.5, 4), (2.0, 3)])
    def test_bursts_are_remembered_for_longer_than_a_load_that_has_gone(self, usual, kept):
        """Peaks of 3.4, of which the last is over by twice the delay."""
        run = self.after_bursts(usual)
        run.see(usual, 2.2 * POLICY.downscale_delay_s - 200)
        assert run.replicas == kept

    def test_bursts_that_do_not_come_back_are_forgotten(self):
        run = self.after_bursts(0.5)
        run.see(0.5, 2.2 * POLICY.downscale_delay_s - 200)
        assert run.replicas == 4
        run.see(0.5, (LONG_MEMORY - 0.2) * POLICY.downscale_delay_s)
        assert run.replicas == 1

    def test_in_bursts_what_a_step_up_has_brought_is_kept_for_longer(self):
        run = Run(replicas=2)
        for _ in range(4):
            run.see(0.3, 100)
            run.see(1.7, 20)
        run.see(0.3, 2, queued=40, drain_s=99.0)
        assert run.replicas == 4
        run.see(0.3, 1.2 * POLICY.downscale_delay_s)
        assert run.replicas == 4
        run.see(0.3, 0.1 * POLICY.downscale_delay_s)
        assert run.replicas == 3

    def test_a_start_is_not_followed_by_a_stop(self):
        run = settled(2, 1.7)
        run.see(1.7, 2, queued=18, drain_s=99.0)
        assert run.replicas == 3
        run.see(1.0, POLICY.downscale_delay_s - 10)
        assert run.replicas == 3

    def test_a_new_scheduler_has_to_watch_before_it_takes_away(self):
        run = Run(replicas=8)
        run.see(0.1, POLICY.downscale_delay_s - 1)
        assert run.replicas == 8


class TestSleep:
    POLICY = replace(POLICY, min_replicas=0, idle_s=30.0, downscale_delay_s=20.0)

    def asleep(self) -> Run:
        run = Run(self.POLICY, replicas=1)
        run.see(0.0, 60, in_flight=0)
        assert run.replicas == 0
        return run

    def test_it_sleeps_when_nobody_has_asked_for_long_enough(self):
        run = Run(self.POLICY, replicas=1)
        assert run.see(0.0, 29, in_flight=0).target == 1
        run.see(0.0, 1, in_flight=1)
        assert run.see(0.0, 29, in_flight=0).target == 1
        decision = run.see(0.0, 2, in_flight=0)
        assert (decision.target, decision.reason) == (0, Reason.IDLE)

    def test_asleep_it_stays_asleep(self):
        decision = self.asleep().see(0.0, 100, in_flight=0)
        assert (decision.target, decision.reason) == (0, Reason.IDLE)

    def test_what_is_left_of_a_rate_wakes_nobody(self):
        """A rate that fades is not zero for half a day."""
        run, rate = Run(self.POLICY, replicas=1), DecayedRate(60.0)
        rate.add(1.0, run.now_s)
        for _ in range(3000):
            run.see(rate.per_s(run.now_s), in_flight=0, arrived=1)
        assert run.replicas == 0
        assert Reason.WAKE not in {reason for _, _, reason in run.changes}

    def test_who_was_refused_finds_the_engine_that_this_has_woken(self):
        run = self.asleep()
        run.see(0.0, 20, in_flight=0, arrived=1)
        assert run.replicas == 1
        run.see(0.0, 20, in_flight=0, arrived=1)
        assert run.replicas == 0

    def test_of_several_none_is_left_when_nobody_has_asked_for_long_enough(self):
        run = Run(replace(self.POLICY, downscale_delay_s=600.0), replicas=4)
        run.see(3.4, 20)
        run.see(0.0, 29, in_flight=0)
        assert run.replicas == 4
        assert run.see(0.0, 2, in_flight=0).target == 0

    @pytest.mark.parametrize("sign", [{"queued": 1}, {"arrived": 1}])
    def test_the_first_request_wakes_it_whether_it_waits_or_was_refused(self, sign):
        run = self.asleep()
        seen = replace(IDLE, running=0, **sign)
        decision = run.autoscaler.decide(seen, run.now_s + 1)
        assert (decision.target, decision.reason) == (1, Reason.WAKE)

    def test_who_asks_when_it_has_just_fallen_asleep_wakes_it(self):
        run = Run(replace(self.POLICY, idle_s=5.0), replicas=0)
        run.see(0.0, in_flight=0)
        assert run.see(0.0, in_flight=0, arrived=1).reason is Reason.WAKE
        assert run.see(0.0, 5, in_flight=0, arrived=1).reason is Reason.IDLE
        assert run.see(0.0, in_flight=0, arrived=2) == Decision(1, Reason.WAKE, 1)

    def test_who_asks_while_there_is_no_room_wakes_it_when_there_is(self):
        run = self.asleep()
        for _ in range(100):
            decision = run.see(0.0, in_flight=0, arrived=1, placeable=0, missing="GPU")
            assert decision == Decision(0, Reason.UNPLACEABLE, 1, "GPU")
        assert run.see(0.0, in_flight=0, arrived=1, placeable=1) == Decision(1, Reason.WAKE, 1)

    def test_where_one_has_to_stay_it_does(self):
        assert Run(POLICY, replicas=1).see(0.0, 2000, in_flight=0).target == 1


# Each is half an hour of decisions; interpreted, it takes several times as long.
@settings(max_examples=10 if COMPILED else 3, deadline=None)
@given(policy=st.sampled_from([POLICY, lean(POLICY)]), need=st.floats(0.0, 40.0), replicas=st.integers(1, 40))
def test_a_constant_load_brings_about_no_swing(policy, need, replicas):
    """From any number, at any level: it only rises, or only falls, and in ten minutes it has settled."""
    run = Run(policy, replicas)
    run.see(need, 1800)
    targets = [replicas, *(target for _, target, _ in run.changes)]
    assert targets in (sorted(targets), sorted(targets, reverse=True))
    assert need <= policy.use_high * run.replicas + 1e-6


@settings(max_examples=25 if COMPILED else 8, deadline=None)
@given(replicas=st.integers(1, 40), share=st.floats(0.0, 1.0))
def test_between_the_thresholds_ten_minutes_change_nothing(replicas, share):
    low = POLICY.use_low * (replicas - 1)
    need = low + share * (POLICY.use_high * replicas - low)
    run = Run(replicas=replicas)
    run.see(need, 600)
    assert len(run.changes) <= 1
