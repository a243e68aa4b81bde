"""The length of an engine's steps, learnt from what reports and ends of requests say."""

from __future__ import annotations

import random

import pytest

from app.flow.pace import StepPace

BASE_S, SEQUENCE_S, TOKEN_S = 0.03, 1e-3, 5e-5


def length_s(running: float, tokens: float = 0.0) -> float:
    return BASE_S + SEQUENCE_S * running + TOKEN_S * tokens


def report(one: StepPace, source: random.Random, now_s: float) -> None:
    """Some steps of an engine, with as many requests and prompt tokens as it happens."""
    steps, running, tokens = source.randrange(20, 40), source.randrange(1, 60), source.randrange(8000)
    one.counted(steps, running, tokens, steps * length_s(running) + TOKEN_S * tokens, now_s)


def timed(one: StepPace, running: int, span_s: float, *, report_s: float | None = None) -> bool:
    """With a report that says so much of a step; None: what is true."""
    said_s = length_s(running) if report_s is None else report_s
    return one.timed(running, span_s, (0.9 * said_s, 1.1 * said_s))


def taught(reports: int = 300, seed: int = 1) -> StepPace:
    one, source = StepPace(0.01, 5e-4, 0.02), random.Random(seed)
    for second in range(reports):
        report(one, source, float(second))
    return one


@pytest.mark.parametrize("seed", range(5))
def test_reports_teach_all_three_coefficients(seed: int):
    one = taught(seed=seed)
    assert one.base_s == pytest.approx(BASE_S, rel=0.1)
    assert one.sequence_s == pytest.approx(SEQUENCE_S, rel=0.1)
    assert one.token_s == pytest.approx(TOKEN_S, rel=0.1)
    assert one.step_s == pytest.approx(length_s(30), rel=0.2)
    assert one.tokens_per_s > 0
    assert one.learnt_s == 0.0


def test_what_the_load_does_not_tell_apart_stays():
    """Reports without prompts say nothing of these; with one number of requests, a step is known as one."""
    one = taught()
    token_s = one.token_s
    for second in range(300, 600):
        one.counted(20, 40, 0, 20 * length_s(40), float(second))
    assert one.token_s == pytest.approx(token_s, rel=0.02)
    assert one.base_s + 40 * one.sequence_s == pytest.approx(length_s(40), rel=0.01)


def test_ends_of_requests_teach_the_length_of_a_step_better_than_reports():
    one, source = taught(30), random.Random(2)
    spans = [(running, source.randrange(1, 4) * length_s(running)) for running in (10, 50) * 20]
    sure = [timed(one, running, span_s + source.gauss(0.0, 0.001)) for running, span_s in spans]
    assert sum(sure) >= 30
    for running in (10, 50):
        assert one.base_s + running * one.sequence_s == pytest.approx(length_s(running), rel=0.01)


def test_a_time_of_which_the_steps_cannot_be_counted_teaches_nothing():
    one = StepPace(0.02, 5e-4, 0.02)
    # Nothing is known: it may be one step of 60 ms, or three of 20.
    assert not timed(one, 10, 0.06, report_s=0.02)
    assert one.step_s == 0.02
    one = taught()
    # Two ends of one step; and so many steps that one more or less is within the doubt.
    assert not timed(one, 10, 0.001)
    assert not timed(one, 10, 400 * length_s(10))
    assert timed(one, 10, 2 * length_s(10))


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_a_time_that_the_last_report_contradicts_teaches_nothing(factor: float):
    """An engine that is suddenly half as fast: each step would pass for two of those that were learnt."""
    one = taught()
    before_s = one.step_s
    for _ in range(100):
        assert not timed(one, 10, 2 * length_s(10), report_s=factor * length_s(10))
    assert one.step_s == before_s


@pytest.mark.parametrize("factor", [0.1, 10.0, 100.0])
def test_the_first_report_tells_what_kind_of_engine_it_is(factor: float):
    one = StepPace(0.02, 5e-5, 0.02)
    for second in range(20):
        one.counted(25, 10, 2000, factor * (25 * 0.02 + 2000 * 5e-5), float(second))
    assert one.base_s + 10 * one.sequence_s == pytest.approx(factor * 0.02, rel=0.2)
    assert one.token_s == pytest.approx(factor * 5e-5, rel=0.2)


def test_an_engine_that_stood_still_does_not_spoil_the_pace():
    one = taught()
    before_s = one.step_s
    one.counted(25, 30, 0, 25.0, 300.0)
    assert one.step_s < 2 * before_s
    for second in range(301, 400):
        one.counted(25, 30, 0, 25 * length_s(30), float(second))
    assert one.base_s + 30 * one.sequence_s == pytest.approx(length_s(30), rel=0.02)


def test_engines_that_change_their_pace_for_good_are_followed():
    """All of them: it is the pace that changes, and none is slow beside the others."""
    one, slowness, span_s = taught(), 1.0, 50 * length_s(30, 40)
    for second in range(300, 500):
        ratio = one.counted(25, 30, 1000, span_s, float(second), slowness)
        slowness += 0.3 * (ratio - slowness)
        # Each step would pass for two.
        bounds_s = (1.8 * length_s(30), 2.2 * length_s(30))
        one.timed(30, 2 * length_s(30), bounds_s, slowness)
    learnt_s = one.base_s + 30 * one.sequence_s + 40 * one.token_s
    assert learnt_s == pytest.approx(2 * length_s(30, 40), rel=0.05)
    assert slowness == pytest.approx(1.0, rel=0.05)


def test_what_was_learnt_to_be_nothing_can_become_something():
    one = StepPace(0.02, 5e-4, 0.02)
    source = random.Random(3)
    for second in range(200):
        running, tokens = source.randrange(1, 60), source.randrange(8000)
        one.counted(30, running, tokens, 30 * 0.02, float(second))
    assert one.sequence_s < 1e-4
    assert one.token_s < 1e-5
    for second in range(1000):
        report(one, source, 200.0 + second)
    assert one.sequence_s == pytest.approx(SEQUENCE_S, rel=0.25)
    assert one.token_s == pytest.approx(TOKEN_S, rel=0.25)


def test_no_coefficient_is_below_zero():
    one = StepPace(0.02, 5e-4, 0.02)
    source = random.Random(4)
    for second in range(500):
        # Time falls with whatever is in the step: no engine is like that.
        running, tokens = source.randrange(1, 60), source.randrange(8000)
        one.counted(30, running, tokens, 3.0 - 0.04 * running - 5e-5 * tokens, float(second))
        assert one.base_s > 0
        assert one.sequence_s >= 0
        assert one.token_s >= 0


def test_prompts_that_come_meanwhile_fill_up_the_last_step():
    one = StepPace(BASE_S, TOKEN_S, 0.02)
    one.sequence_s = SEQUENCE_S
    assert one.shared_prefill_s(50, 1, 100, 10, 0.01) == pytest.approx(length_s(10, 50))
    one.tokens_per_s = 1e9
    assert one.shared_prefill_s(50, 1, 100, 10, 0.01) == pytest.approx(length_s(10, 100))
    assert one.shared_prefill_s(250, 3, 100, 10, 0.01) == pytest.approx(3 * length_s(10, 100))


def test_steps_that_are_not_full_have_less_time_for_others_to_come():
    """Ten steps with 25 tokens each: a prompt that gets so much of each. Of those who come half join."""
    one = StepPace(BASE_S, TOKEN_S, 0.02)
    one.tokens_per_s = 100.0
    before_last_s = 0.01 + 9 * (BASE_S + 25 * TOKEN_S)
    joining = 0.5 * 100.0 * before_last_s
    assert one.shared_prefill_s(250, 10, 100, 0, 0.01) == pytest.approx(
        10 * BASE_S + (250 + joining) * TOKEN_S
    )


def test_a_prompt_takes_its_steps_and_its_tokens():
    one = StepPace(BASE_S, TOKEN_S, 0.02)
    one.sequence_s = SEQUENCE_S
    assert one.prefill_s(0, 1, 0) == pytest.approx(length_s(0))
    assert one.prefill_s(250, 3, 20) == pytest.approx(3 * length_s(20) + 250 * TOKEN_S)
