"""Which engines are expected: events, and a float for time."""

from __future__ import annotations

import pytest

from app.flow.config import FlowConfig, Limits
from app.flow.controller import FlowController
from app.flow.replicas import START_PATIENCE_S
from app.flow.ticket import ReplicaReport
from app.serving.engine_starts import MAX_START_S, EngineStarts

START_S = 60.0
LIMITS = Limits(10, 300.0, requests_per_replica=1, lease_ttl_s=15.0, replica_ttl_s=5.0)
# It has had time to hear of every engine.
OLD_S = 10.0


class Starts(EngineStarts):
    """With the core that it tells."""

    def __init__(self, *, wakes: bool = False) -> None:
        self.core = FlowController(LIMITS, FlowConfig(), lambda: 0.5)
        self.core.tick(0.0)
        super().__init__(self.core, START_S, wakes=wakes)

    def expected(self, now_s: float) -> int:
        return self.core.snapshot(now_s).replicas_starting

    def engine(self, replica_id: str, now_s: float) -> None:
        """It reports, and takes requests."""
        self.core.report(ReplicaReport(replica_id, frozenset()), now_s)
        self.reports(replica_id, now_s, now_s)
        self.ready(now_s)


def test_an_engine_that_says_that_it_starts_is_expected_until_it_is_there():
    starts = Starts()
    starts.began("r", OLD_S, OLD_S)
    assert starts.expected(OLD_S) == 1
    starts.engine("r", OLD_S + 20.0)
    assert starts.expected(OLD_S + 20.0) == 0


def test_the_last_few_starts_say_how_long_the_next_takes():
    starts = Starts()
    for number in range(20):
        starts.began(f"r{number}", OLD_S, 100.0 * number)
        starts.reports(f"r{number}", OLD_S, 100.0 * number + 20.0)
    assert starts.start_s == pytest.approx(20.0, abs=0.1)
    # One that was given up long ago teaches nothing.
    starts.began("late", OLD_S, 5000.0)
    starts.began("next", OLD_S, 5001.0 + MAX_START_S)
    starts.reports("late", OLD_S, 5002.0 + MAX_START_S)
    assert starts.start_s == pytest.approx(20.0, abs=0.1)


def test_the_last_engine_has_a_successor_which_is_expected_once():
    starts = Starts()
    starts.engine("r", OLD_S)
    starts.gone("r", OLD_S + 1.0, waited_for=False)
    starts.core.replica_gone("r", OLD_S + 1.0)
    starts.gone("r", OLD_S + 1.1, waited_for=False)
    starts.follow(OLD_S + 1.2, waited_for=False)
    assert starts.expected(OLD_S + 1.2) == 1
    # When it says its name it is no other one.
    starts.began("s", OLD_S + 2.0, OLD_S + 2.0)
    assert starts.expected(OLD_S + 2.0) == 1


def test_a_successor_that_never_comes_is_not_expected_again():
    starts = Starts()
    starts.engine("r", OLD_S)
    starts.gone("r", OLD_S + 1.0, waited_for=False)
    starts.core.replica_gone("r", OLD_S + 1.0)
    late_s = OLD_S + START_S + START_PATIENCE_S + 2.0
    starts.core.tick(late_s)
    assert starts.expected(late_s) == 0
    starts.follow(late_s, waited_for=True)
    starts.gone("r", late_s, waited_for=True)
    assert starts.expected(late_s) == 0


def test_a_scheduler_that_takes_over_where_the_last_engine_died_too_expects_its_successor():
    starts = Starts()
    starts.follow(1.0, waited_for=True)
    assert starts.expected(1.0) == 0, "it has yet to hear of its engines"
    starts.follow(OLD_S, waited_for=True)
    assert starts.expected(OLD_S) == 1


def test_an_engine_that_is_silent_has_one_too():
    starts = Starts()
    starts.engine("r", OLD_S)
    starts.follow(OLD_S + 1.0, waited_for=False)
    assert starts.expected(OLD_S + 1.0) == 0
    starts.follow(OLD_S + LIMITS.replica_ttl_s + 1.0, waited_for=False)
    assert starts.expected(OLD_S + 7.0) == 1


def test_a_start_that_has_failed_is_tried_again():
    starts = Starts()
    for name in ("r", "again"):
        starts.began(name, OLD_S, OLD_S)
        starts.gone(name, OLD_S + 5.0, waited_for=False)
        starts.core.replica_gone(name, OLD_S + 5.0)
        assert starts.expected(OLD_S + 5.0) == 1


@pytest.mark.parametrize("waited_for", [False, True])
def test_an_application_that_may_sleep_has_a_successor_only_for_who_waits(waited_for):
    starts = Starts(wakes=True)
    starts.engine("r", OLD_S)
    starts.gone("r", OLD_S + 1.0, waited_for=waited_for)
    assert starts.expected(OLD_S + 1.0) == waited_for


def test_only_an_engine_without_a_name_holds_nothing_of_the_cluster():
    starts = Starts(wakes=True)
    starts.asked(OLD_S)
    assert starts.unplaced == 1
    starts.began("r", OLD_S + 1.0, OLD_S + 1.0)
    assert starts.unplaced == 0


@pytest.mark.parametrize("wakes", [False, True])
def test_who_asks_wakes_only_what_sleeps(wakes):
    starts = Starts(wakes=wakes)
    starts.asked(1.0)
    assert starts.expected(1.0) == 0, "it has yet to hear of its engines"
    starts.asked(OLD_S)
    assert starts.expected(OLD_S) == wakes


def test_a_start_that_another_scheduler_was_told_of_is_expected():
    starts = Starts()
    starts.found(1.0)
    starts.found(1.1)
    assert starts.expected(1.1) == 1
    # Engines that were there before say nothing of it.
    for at_s in (1.2, OLD_S):
        starts.engine("old", at_s)
    assert starts.expected(OLD_S) == 1
    starts.engine("it", OLD_S + 1.0)
    assert starts.expected(OLD_S + 1.0) == 0
    # Not beside one that says so itself.
    again = Starts()
    again.began("r", 1.0, 1.0)
    again.found(1.1)
    assert again.expected(1.1) == 1


def test_who_waits_for_a_start_survives_the_scheduler_that_was_told_of_it():
    """Its successor is as old as it has to be to know its engines, and has found one that starts."""
    starts = Starts()
    starts.found(0.5)
    assert not starts.core.asleep(OLD_S)
    assert starts.core.snapshot(OLD_S).replicas_starting == 1
