"""The engine's clock: a prompt's first token comes when the step that completes the prompt ends."""

from __future__ import annotations

import pytest

from app.flow.clock import FEW_STEPS, MAX_SPAN_S, EngineClock
from app.flow.pace import MAX_SLOWNESS, StepPace
from app.flow.ticket import EngineMetrics

# A step takes 20 ms and 1 ms for each ten prompt tokens; 100 tokens fit beside ten requests.
STEP_S, TOKEN_S, BUDGET, RUNNING = 0.02, 1e-4, 100, 10


def pace() -> StepPace:
    return StepPace(STEP_S, TOKEN_S, 0.02)


def clock(**changes: bool) -> EngineClock:
    return EngineClock(pace(), BUDGET + RUNNING, **changes)


def busy(now_s: float = 0.0) -> EngineClock:
    """An engine that began a step without prompts at this time."""
    one = clock()
    one.give(0, 0, now_s)
    return one


def test_an_idle_engine_begins_at_once():
    assert clock().ttft_s(50, 0, 3.0) == pytest.approx(STEP_S + 50 * TOKEN_S)


def test_a_busy_engine_ends_its_step_first():
    assert busy().ttft_s(50, RUNNING, 0.005) == pytest.approx(0.015 + STEP_S + 50 * TOKEN_S)
    # Two steps later it is in the middle of another.
    assert busy().ttft_s(50, RUNNING, 0.045) == pytest.approx(0.015 + STEP_S + 50 * TOKEN_S)


def test_a_long_prompt_takes_a_step_for_each_budget():
    assert busy().ttft_s(250, RUNNING, 0.0) == pytest.approx(3 * STEP_S + 250 * TOKEN_S)


def test_prompts_that_are_ahead_are_computed_first():
    one = busy()
    one.give(80, RUNNING, 0.01)
    assert one.waiting
    assert one.ttft_s(50, RUNNING, 0.01) == pytest.approx(0.01 + 2 * STEP_S + 130 * TOKEN_S)
    # The next step has begun with them, and is 8 ms longer.
    assert one.ttft_s(50, RUNNING, 0.03) == pytest.approx(0.018 + STEP_S + 50 * TOKEN_S)
    assert not one.waiting


def test_what_is_ahead_runs_out_with_the_steps():
    one = busy()
    assert one.delay_s(0, RUNNING, 0.0) == clock().delay_s(0, 0, 0.0) == 0.0
    one.give(150, RUNNING, 0.01)
    # The present step, then two: 100 tokens and 50.
    assert one.delay_s(0, RUNNING, 0.01) == pytest.approx(0.01 + 2 * STEP_S + 150 * TOKEN_S)
    assert one.delay_s(0, RUNNING, 0.03) == pytest.approx(0.02 + STEP_S + 50 * TOKEN_S)
    assert one.delay_s(0, RUNNING, 0.06) == pytest.approx(0.015)
    assert one.delay_s(0, RUNNING, 0.08) == 0.0


def sharing() -> EngineClock:
    """At most thirty tokens of one prompt in a step."""
    one = EngineClock(pace(), BUDGET + RUNNING, 30)
    one.give(0, 0, 0.0)
    return one


def test_short_prompts_are_computed_beside_long_ones():
    one = sharing()
    assert one.ttft_s(60, RUNNING, 0.0) == pytest.approx(2 * STEP_S + 60 * TOKEN_S)
    one.give(300, RUNNING, 0.01)
    assert one.ttft_s(20, RUNNING, 0.01) == pytest.approx(0.01 + STEP_S + 50 * TOKEN_S)
    assert one.ttft_s(60, RUNNING, 0.01) == pytest.approx(0.01 + 2 * STEP_S + 120 * TOKEN_S)
    # Who comes next has a step of its own before a token is computed, and a part of it is for others.
    assert one.delay_s(0, RUNNING, 0.01) == pytest.approx(0.01 + STEP_S + 30 * TOKEN_S)
    assert one.delay_s(300, RUNNING, 0.01) == pytest.approx(0.01 + STEP_S + 60 * TOKEN_S)


def test_an_idle_engine_takes_a_step_for_each_share():
    one = EngineClock(pace(), BUDGET + RUNNING, 30)
    assert one.ttft_s(60, 0, 3.0) == pytest.approx(2 * STEP_S + 60 * TOKEN_S)


def test_the_first_token_of_a_short_prompt_does_not_complete_a_long_one():
    one = sharing()
    long = one.give(300, RUNNING, 0.01)
    short = one.give(20, RUNNING, 0.01)
    one.first_token(short, RUNNING, 0.05)
    assert one.computed(short)
    assert not one.computed(long)
    one.first_token(long, RUNNING, 0.3)
    assert one.computed(long)


def test_without_steps_what_is_ahead_is_the_backlog():
    one = clock(follow=False)
    one.give(0, 0, 0.0)
    one.give(150, RUNNING, 0.01)
    assert one.delay_s(0, RUNNING, 0.012) == pytest.approx(2 * STEP_S + 150 * TOKEN_S)


def test_a_first_token_sets_the_clock():
    one = busy()
    mark = one.give(80, RUNNING, 0.01)
    # Later than expected (48 ms), earlier, and together with another of the same step.
    for late_s in (0.05, 0.04):
        again = busy()
        mark = again.give(80, RUNNING, 0.01)
        again.first_token(mark, RUNNING, late_s)
        assert again.ttft_s(50, RUNNING, late_s + 0.005) == pytest.approx(0.015 + STEP_S + 50 * TOKEN_S)
    second = one.give(10, RUNNING, 0.012)
    one.first_token(mark, RUNNING, 0.04)
    one.first_token(second, RUNNING, 0.04)
    assert one.ttft_s(50, RUNNING, 0.04) == pytest.approx(STEP_S + 50 * TOKEN_S)


@pytest.mark.parametrize("ended_s", [0.018, 0.022])
def test_an_end_sets_the_clock_to_the_nearer_step(ended_s):
    one = busy()
    one.ended(RUNNING, ended_s)
    assert one.ttft_s(50, RUNNING, ended_s + 0.005) == pytest.approx(0.015 + STEP_S + 50 * TOKEN_S)


def test_word_of_an_end_that_comes_late_sets_the_clock_to_when_it_was():
    one = busy()
    # It runs on to the step that begins at 40 ms.
    assert one.ttft_s(50, RUNNING, 0.045) == pytest.approx(0.015 + STEP_S + 50 * TOKEN_S)
    one.ended(RUNNING, 0.037)
    assert one.ttft_s(50, RUNNING, 0.045) == pytest.approx(0.012 + STEP_S + 50 * TOKEN_S)


@pytest.mark.parametrize("ended_s", [0.007, 0.028])
def test_an_end_that_is_nearer_to_an_earlier_step_says_nothing_of_the_present_one(ended_s: float):
    one = busy()
    # The step that ends at 40 ms has begun with a prompt, the next one with another.
    one.give(80, RUNNING, 0.001)
    one.give(80, RUNNING, 0.03)
    expected_s = one.ttft_s(50, RUNNING, 0.055)
    assert one.waiting is False
    one.ended(RUNNING, ended_s)
    assert one.ttft_s(50, RUNNING, 0.055) == expected_s


def test_an_end_sets_the_clock_right_after_it_was_set_back():
    one = clock()
    one.give(0, 0, 1000.0)
    one.ended(RUNNING, 990.0)
    assert one.ttft_s(50, RUNNING, 990.005) == pytest.approx(0.015 + STEP_S + 50 * TOKEN_S)


def test_an_engine_that_stood_still_once_is_soon_as_fast_as_before():
    engine, _ = steady()
    expected_s = engine.ttft_s(80, 0, 41.0)
    engine.count(counters(RUNNING, 50 * 41), 48.0)
    assert engine.ttft_s(80, 0, 48.0) < 1.5 * expected_s
    for second in range(49, 59):
        engine.count(counters(RUNNING, 50 * (second - 7)), float(second))
    assert engine.ttft_s(80, 0, 59.0) == pytest.approx(expected_s, rel=0.1)


def test_an_end_of_which_only_the_news_is_timed_teaches_nothing():
    engine, one = steady()
    known_s = one.step_s
    engine.ended(RUNNING, 41.0)
    engine.ended(RUNNING, 41.022, told=False)
    engine.ended(RUNNING, 41.044)
    assert one.step_s == known_s
    engine.ended(RUNNING, 41.066)
    assert one.step_s > known_s


def test_times_of_an_engine_that_is_slower_than_the_others_are_known_by_its_own_pace():
    """Its steps take half as long again, and so do its prompts."""
    one = pace()
    slow, others = EngineClock(one, BUDGET + RUNNING), [EngineClock(one, BUDGET + RUNNING) for _ in range(9)]
    clocks = [*((other, 1.0) for other in others), (slow, 1.5)]
    steps, tokens = dict.fromkeys(range(10), 0.0), 0
    for second in range(401):
        come = 1000 * (1 + second // 10 % 4)
        for index, (engine, slowness) in enumerate(clocks):
            engine.count(counters(RUNNING, round(steps[index]), tokens), float(second))
            # What is left of the second when the prompts that come in it are computed.
            steps[index] += (1.0 / slowness - TOKEN_S * come) / STEP_S
        tokens += come
    assert slow.ttft_s(80, 0, 401.0) == pytest.approx(1.5 * (STEP_S + 80 * TOKEN_S), rel=0.1)
    # By its last report, prompts of which took six tenths of the time.
    known_s = one.step_s
    slow.ended(RUNNING, 401.0)
    slow.ended(RUNNING, 401.03)
    assert one.step_s != known_s


def test_what_is_taken_back_is_ahead_of_nobody():
    one = busy()
    mark = one.give(80, RUNNING, 0.01)
    one.take_back(mark)
    assert not one.waiting
    assert one.ttft_s(50, RUNNING, 0.01) == pytest.approx(0.01 + STEP_S + 50 * TOKEN_S)


def test_what_is_taken_back_is_no_more_than_is_left():
    one = clock()
    # A hundred tokens a step beside ten that run: half of the first is begun.
    first = one.give(200, RUNNING, 0.0)
    second = one.give(200, RUNNING, 0.0)
    one.take_back(first)
    # All that was left is computed, and the second is behind none of it any more.
    later_s = 10 * STEP_S
    assert one.delay_s(0, RUNNING, later_s) == 0.0
    one.take_back(second)
    assert one.delay_s(0, RUNNING, later_s) == 0.0
    one.give(50, RUNNING, later_s)
    assert one.delay_s(0, RUNNING, later_s) > 50 * TOKEN_S


def test_without_following_steps_only_the_backlog_counts():
    one = clock(follow=False)
    one.give(0, 0, 0.0)
    assert one.ttft_s(50, RUNNING, 0.005) == pytest.approx(STEP_S + 50 * TOKEN_S)


def counters(running: int, steps: int, prompt_tokens: int = 0) -> EngineMetrics:
    return EngineMetrics(running, 0, 0.1, steps=steps, prompt_tokens=prompt_tokens)


def test_an_idle_engine_and_one_that_counts_nothing_teach_nothing():
    one = pace()
    engine = EngineClock(one, BUDGET)
    for second, (running, steps) in enumerate([(1, 0), (1, 0), (0, 50), (1, 60)]):
        engine.count(counters(running, steps), float(second))
    assert not one.learnt
    engine.give(5, 0, 4.0)
    engine.count(counters(1, 99), 5.0)
    assert not one.learnt
    engine.count(counters(1, 109), 6.0)
    assert one.learnt_s == 6.0
    assert STEP_S < one.step_s <= 0.1


def test_prompts_and_time_are_counted_over_many_steps():
    """A prompt counts in the step that completes it: in few steps it is either too much or too little."""
    one = pace()
    engine = EngineClock(one, BUDGET)
    engine.count(counters(1, 0), 0.0)
    engine.count(counters(1, FEW_STEPS), 1.0)
    known_s = one.step_s
    engine.count(counters(1, 2 * FEW_STEPS - 1), 2.0)
    assert one.step_s == known_s
    engine.count(counters(1, 2 * FEW_STEPS), 2.5)
    assert one.step_s != known_s


def test_steps_that_are_long_are_counted_all_the_same():
    one = pace()
    engine = EngineClock(one, BUDGET)
    for second in range(0, 60, 3):
        engine.count(counters(1, second // 3), float(second))
    assert one.step_s == pytest.approx(3.0, rel=0.1)


@pytest.mark.parametrize("span_s", [0.0, -5.0, MAX_SPAN_S + 1.0])
def test_a_clock_that_was_set_teaches_nothing(span_s: float):
    one = pace()
    engine = EngineClock(one, BUDGET)
    engine.count(counters(1, 1), 100.0)
    engine.count(counters(1, 50), 100.0 + span_s)
    assert not one.learnt
    engine.count(counters(1, 60), 101.0 + span_s)
    assert one.learnt


def steady() -> tuple[EngineClock, StepPace]:
    """It has run for 40 s, and its pace is known well enough to count steps."""
    one = pace()
    engine = EngineClock(one, BUDGET + RUNNING)
    engine.give(0, 0, 0.0)
    for second in range(41):
        engine.count(counters(RUNNING, 50 * second), float(second))
    assert one.step_s == pytest.approx(STEP_S, rel=1e-3)
    return engine, one


def test_the_time_between_two_ends_teaches_the_pace_once_a_report():
    engine, one = steady()
    engine.ended(RUNNING, 41.0)
    # Three steps of 22 ms.
    engine.ended(RUNNING, 41.066)
    slower_s = one.step_s
    assert slower_s > 1.003 * STEP_S
    engine.ended(RUNNING, 41.132)
    assert one.step_s == slower_s
    engine.count(counters(RUNNING, 2046), 41.14)
    engine.count(counters(RUNNING, 2096), 42.24)
    told_s = one.step_s
    engine.ended(RUNNING, 42.3)
    engine.ended(RUNNING, 42.388)
    assert one.step_s != told_s


def test_a_time_with_prompts_in_it_is_not_one_of_steps_alone():
    engine, one = steady()
    known_s = one.step_s
    engine.ended(RUNNING, 41.0)
    mark = engine.give(80, RUNNING, 41.005)
    engine.ended(RUNNING, 41.022)
    engine.first_token(mark, RUNNING, 41.048)
    engine.ended(RUNNING, 41.07)
    assert one.step_s == known_s
    engine.ended(RUNNING, 41.092)
    assert one.step_s > known_s


def test_an_engine_that_is_slower_than_the_others_is_known_as_such():
    """Two engines of one fleet, one of which takes half as long again for its steps."""
    one = pace()
    engines = [EngineClock(one, BUDGET + RUNNING) for _ in range(2)]
    slowness, counted = (1.0, 1.5), [0.0, 0.0]
    for engine in engines:
        engine.give(0, 0, 0.0)
    for second in range(1, 120):
        for index, engine in enumerate(engines):
            counted[index] += 1.0 / (STEP_S * slowness[index])
            engine.count(counters(RUNNING, int(counted[index])), float(second))
    fast, slow = (engine.ttft_s(0, 0, 120.0) for engine in engines)
    assert fast == pytest.approx(STEP_S, rel=0.07)
    assert slow == pytest.approx(1.5 * STEP_S, rel=0.07)
    # What it takes for a prompt, too, and until its present step ends.
    prompts = [engine.ttft_s(80, 0, 120.0) for engine in engines]
    assert prompts[1] == pytest.approx(1.5 * prompts[0], rel=0.1)


def test_an_engine_is_not_taken_for_slower_than_by_a_bound():
    one = pace()
    engine, others = EngineClock(one, BUDGET), [EngineClock(one, BUDGET) for _ in range(5)]
    for second in range(60):
        for other in others:
            other.count(counters(1, 50 * second), float(second))
        engine.count(counters(1, 5 * second), float(second))
    assert engine.ttft_s(0, 0, 60.0) <= MAX_SLOWNESS * one.base_s


def test_more_that_run_take_longer_steps():
    one = StepPace(STEP_S, TOKEN_S, 0.02)
    one.sequence_s = 1e-3
    engine = EngineClock(one, BUDGET + RUNNING)
    engine.give(0, 0, 0.0)
    assert engine.ttft_s(50, RUNNING, 0.01) == pytest.approx(0.02 + 0.03 + 50 * TOKEN_S)
    assert engine.ttft_s(50, 1, 0.01) == pytest.approx(0.011 + 0.021 + 50 * TOKEN_S)
