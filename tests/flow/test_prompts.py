"""Which prompts share a step: vLLM's rule, token by token in the reference here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.flow.prompts import PromptLine, fewest_steps, shared_steps

SHARE, BUDGET = 30, 100
lengths = st.lists(st.integers(1, 400), max_size=8)
shares = st.one_of(st.none(), st.integers(1, 150))


def step(line: list[int], share: int | None, budget: int) -> list[int]:
    """What each gets of one step: the first takes first, each at most its share."""
    given_ = [0] * len(line)
    for index, tokens in enumerate(line):
        while given_[index] < min(tokens, share or tokens) and sum(given_) < budget:
            given_[index] += 1
    return given_


def until_the_last(line: list[int], share: int | None, budget: int) -> tuple[int, int]:
    """Steps, and tokens of the others."""
    steps = others = 0
    while line[-1]:
        parts = step(line, share, budget)
        steps, others = steps + 1, others + sum(parts[:-1])
        line = [tokens - part for tokens, part in zip(line, parts, strict=True)]
    return steps, others


def line_of(tokens: list[int], share: int | None = SHARE) -> tuple[PromptLine, list[int]]:
    line = PromptLine(share)
    return line, [line.add(one) for one in tokens]


@given(lengths, st.integers(1, 400), shares, st.integers(1, 150))
def test_a_newcomer_is_computed_when_the_steps_before_have_been(ahead, tokens, share, budget):
    line, _ = line_of(ahead, share)
    steps, others = line.beside(tokens, budget, later=False)
    expected_steps, expected = until_the_last([*ahead, tokens], share, budget)
    assert steps == expected_steps
    # First come, first served: all that is ahead. Else what shares its steps.
    assert others == (sum(ahead) if share is None else expected)


@given(lengths, st.integers(1, 400), shares, st.integers(1, 150))
def test_after_the_present_step_what_that_computes_is_in_nobodys_way(ahead, tokens, share, budget):
    line, _ = line_of(ahead, share)
    line.begin(budget)
    left = [one - part for one, part in zip(ahead, step(ahead, share, budget), strict=True)]
    again, _ = line_of([one for one in left if one], share)
    assert line.beside(tokens, budget, later=True) == again.beside(tokens, budget, later=False)
    line.end()
    assert line.beside(tokens, budget, later=False) == again.beside(tokens, budget, later=False)
    assert line.left == sum(left)


@given(lengths, shares, st.integers(1, 150))
def test_steps_compute_all_of_them(ahead, share, budget):
    line, marks = line_of(ahead, share)
    left = list(ahead)
    while line.left:
        line.begin(budget)
        assert line.chunk == sum(step(left, share, budget))
        assert line.waiting == (sum(left) > line.chunk)
        left = [one - part for one, part in zip(left, step(left, share, budget), strict=True)]
        line.end()
        assert [line.computed(mark) for mark in marks] == [one == 0 for one in left]
    assert not line.waiting


def test_a_short_prompt_is_computed_beside_long_ones():
    line, (long, _) = line_of([300, 300])
    short = line.add(20)
    line.begin(BUDGET)
    line.end()
    assert line.computed(short)
    assert not line.computed(long)
    assert line.left == 2 * 270


def test_where_the_step_is_full_it_waits_until_one_of_them_is_computed():
    assert line_of([60] * 3)[0].beside(20, BUDGET, later=False) == (2, 180)
    # Ten of the second step's hundred tokens are left in the first, and ten in the second.
    assert line_of([60] * 3)[0].beside(10, BUDGET, later=False) == (1, 90)


def test_who_comes_next_is_behind_a_prompt_that_takes_the_rest_of_each_step():
    line, _ = line_of([300] * 2)
    assert line.before(20, BUDGET, later=False) == (1, 80)
    assert line.before(300, BUDGET, later=False) == (1, 90)
    full, _ = line_of([300] * 3)
    assert full.before(300, BUDGET, later=False) == (11, 1030)
    # First come, first served: it has its own turn, after what is ahead.
    alone, _ = line_of([300] * 3, share=None)
    assert alone.before(300, BUDGET, later=False) == (9, 900)


def test_a_first_token_tells_what_the_others_got_meanwhile():
    line, marks = line_of([300, 20, 70, 300])
    # Three steps of thirty tokens each.
    line.reached(marks[2])
    assert [line.computed(mark) for mark in marks] == [False, True, True, False]
    assert line.left == 300 - 90 + 300
    line.reached(marks[2])
    assert line.left == 510


def test_first_come_first_served_all_before_it_are_computed():
    line, marks = line_of([300, 20, 70, 300], share=None)
    line.reached(marks[2])
    assert [line.computed(mark) for mark in marks] == [True, True, True, False]
    assert line.left == 300


@pytest.mark.parametrize(("share", "left"), [(None, 100 + 10), (SHARE, 30 + 30 + 10)])
def test_what_is_begun_of_a_dropped_one_is_computed(share, left):
    line, (first, second) = line_of([300, 300], share)
    third = line.add(10)
    line.begin(BUDGET)
    assert line.chunk == min(BUDGET, left)
    line.drop(first)
    line.drop(second)
    line.drop(second)
    assert line.left == left
    line.end()
    assert line.computed(first)
    assert line.computed(second)
    assert line.computed(third) == (share is not None)


def test_a_prompt_that_is_cached_whole_is_computed():
    line, (mark,) = line_of([0])
    assert line.computed(mark)
    assert line.left == 0


def test_an_idle_engine_has_none():
    line, (mark,) = line_of([300])
    line.begin(BUDGET)
    line.clear()
    assert (line.left, line.chunk, line.computed(mark)) == (0, 0, True)


def test_steps_of_one_prompt():
    assert [fewest_steps(tokens, 100) for tokens in (0, 1, 100, 101)] == [1, 1, 1, 2]
    assert shared_steps(50, 100, 100, None) == 2
    assert shared_steps(50, 100, 100, 10) == 5
    assert shared_steps(50, 1000, 100, 10) == 11
