"""Which end says what of which promise, and the counting over windows."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.flow.config import ClassPolicy, FlowConfig, LimitPolicy, SloPolicy
from app.flow.endings import Ended
from app.flow.outcome import Outcome
from app.flow.slo import CLIENTS_OWN, GRAINS_A_WINDOW, SlidingCounts, SloRecord, Standing, judged
from app.flow.ticket import Usage

CONFIG = FlowConfig(
    classes=(ClassPolicy("fast", 0.0, 0.0, ttft_budget_s=1.0, objective=0.9),),
    default_class="fast",
    limit=LimitPolicy(itl_budget_s=0.1),
    slo=SloPolicy((60.0, 600.0)),
)
# A second to the first token, and 0.1 s between tokens.
SERVED = Ended(
    Outcome.COMPLETED,
    at_s=0.0,
    class_name="fast",
    total_s=2.0,
    ttft_s=1.0,
    ttft_budget_s=1.0,
    usage=Usage(5, 11, 1.0, decode_s=1.0),
)


def verdicts(**changes: object) -> dict[str, bool]:
    return dict(judged(SERVED._replace(**changes), tpot_budget_s=0.1))


def test_a_served_request_is_judged_by_every_promise_that_it_has():
    assert verdicts() == {"answered": True, "ttft": True, "tpot": True}
    assert verdicts(deadline_s=2.0)["e2e"]
    assert verdicts(ttft_s=1.01) == {"answered": True, "ttft": False, "tpot": True}
    assert not verdicts(usage=Usage(5, 11, 1.0, decode_s=1.01))["tpot"]
    assert not verdicts(deadline_s=1.9)["e2e"]


@pytest.mark.parametrize("usage", [None, Usage(5, 1, 1.0, 0.0), Usage(5, 7, 1.0)])
def test_without_a_second_token_there_is_no_time_per_token(usage):
    assert "tpot" not in verdicts(usage=usage)


def test_an_answer_without_tokens_has_no_promise_for_the_first():
    assert verdicts(ttft_s=None, usage=None) == {"answered": True}


def test_what_the_engine_refuses_is_its_clients_own():
    assert list(judged(Ended(Outcome.ENGINE_REFUSED, 0.0), 0.1)) == []


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.refuses])
def test_a_refusal_counts_against_being_answered_alone_and_only_where_it_was_not_the_clients_own_doing(
    outcome,
):
    late = verdicts(outcome=outcome, ttft_s=None, usage=None, total_s=9.0, deadline_s=1.0)
    assert late == ({} if outcome in CLIENTS_OWN else {"answered": False})


def test_a_client_that_leaves_says_that_a_promise_was_broken_once_it_was_due_and_else_nothing():
    gone = {"outcome": Outcome.CANCELLED, "ttft_s": None, "usage": None}
    assert verdicts(**gone, total_s=1.0, deadline_s=1.0) == {}
    assert verdicts(**gone, total_s=1.1, deadline_s=1.0) == {"ttft": False, "e2e": False}


def test_an_engine_that_fails_breaks_what_was_due():
    failed = {"outcome": Outcome.FAILED, "usage": None}
    assert verdicts(**failed) == {"answered": False, "ttft": True}
    assert verdicts(**failed, ttft_s=None) == {"answered": False, "ttft": False}
    assert verdicts(**failed, ttft_s=None, total_s=0.5) == {"answered": False}


def test_a_window_forgets_to_within_a_grain_and_a_clock_that_is_set_back_adds_to_the_newest():
    counts = SlidingCounts(10.0, 1.0)
    assert counts.over(10.0, 5.0) == (0, 0)
    for at_s in (0.0, 1.0, 5.0, 4.0):
        counts.add(at_s > 0, at_s)
    assert counts.over(10.0, 5.0) == (3, 4)
    assert counts.over(2.0, 5.0) == (2, 2)
    assert counts.over(10.0, 11.5) == (2, 2)
    assert counts.over(10.0, 99.0) == (0, 0)


@given(st.integers(0, 10_000), st.integers(1, 400))
def test_a_window_holds_what_an_exact_list_holds_between_its_length_and_a_grain_less(seed, events):
    source, now_s = random.Random(seed), 0.0
    counts, times = SlidingCounts(50.0, 1.0), []
    for _ in range(events):
        now_s += source.expovariate(1.0)
        counts.add(True, now_s)
        times.append(now_s)
        for window_s in (10.0, 50.0):
            _, total = counts.over(window_s, now_s)
            most = sum(at_s > now_s - window_s for at_s in times)
            least = sum(at_s > now_s - window_s + 1.0 for at_s in times)
            assert least <= total <= most
    assert len(counts._grains) <= 51


def test_attainment_burn_rate_and_budget():
    kept = Standing("fast", "ttft", 60.0, kept=95, total=100, objective=0.9)
    assert (kept.attainment, kept.burn_rate) == (0.95, pytest.approx(0.5))
    assert kept.budget_left == pytest.approx(0.5)
    assert kept._replace(kept=70).budget_left == pytest.approx(-2.0)


def test_a_record_stands_for_every_window_in_which_something_was_judged():
    record = SloRecord(CONFIG)
    assert record.standings(0.0) == []
    record.add(SERVED)
    assert record.add(SERVED._replace(at_s=100.0, ttft_s=5.0)) == [
        ("answered", True),
        ("ttft", False),
        ("tpot", True),
    ]
    found = {(one.promise, one.window_s): (one.kept, one.total) for one in record.standings(100.0)}
    assert found["ttft", 60.0] == (0, 1)
    assert found["ttft", 600.0] == (1, 2)
    assert ("e2e", 600.0) not in found
    assert {one.objective for one in record.standings(100.0)} == {0.9}


def test_what_has_no_class_is_not_judged():
    record = SloRecord(CONFIG)
    assert record.add(Ended(Outcome.COMPLETED, 0.0)) == []
    assert record.standings(0.0) == []


def test_memory_is_bounded_by_the_windows():
    record = SloRecord(CONFIG)
    for second in range(3000):
        record.add(SERVED._replace(at_s=float(second)))
    most = 600 / (60 / GRAINS_A_WINDOW) + 1
    assert all(len(counts._grains) <= most for counts in record._counts.values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": (ClassPolicy("fast", 0.0, 0.0, 1.0, objective=1.0),)}, "objective: 1.0"),
        ({"slo": SloPolicy(())}, "windows_s"),
        ({"slo": SloPolicy((0.0,))}, "windows_s"),
        ({"slo": SloPolicy((math.inf,))}, "windows_s"),
        ({"slo": SloPolicy((math.nan,))}, "windows_s"),
        ({"slo": SloPolicy((300.0, math.nan))}, "windows_s"),
    ],
)
def test_what_makes_no_budget_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        replace(CONFIG, **change)
