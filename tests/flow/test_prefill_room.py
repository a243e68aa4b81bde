"""Prompts of less urgent classes wait where they would be in the way of more urgent first tokens."""

from __future__ import annotations

import pytest

from app.flow.config import ClassPolicy, FlowConfig, Limits, RoutePolicy
from app.flow.controller import FlowController
from app.flow.outcome import Outcome
from app.flow.ticket import Granted, Refused, ReplicaReport, Ticket, Usage

LIMITS = Limits(
    max_queued=100, max_queue_wait_s=60.0, requests_per_replica=100, lease_ttl_s=1e6, replica_ttl_s=1e6
)
# The shares of batch are tested on their own; until engines have counted, 2,000 prompt tokens take a second.
CLASSES = (
    ClassPolicy("interactive", boost_s=70.0, min_share=0.0, ttft_budget_s=2.0),
    ClassPolicy("standard", boost_s=60.0, min_share=0.0, ttft_budget_s=10.0),
    ClassPolicy("batch", boost_s=0.0, min_share=0.0, ttft_budget_s=60.0),
)
A_SECOND = 2000


class Flow:
    """Engines with places for all, and a log of who was sent where."""

    def __init__(self, *replicas: str, classes: tuple[ClassPolicy, ...] = CLASSES, **route: float) -> None:
        self.flow = FlowController(LIMITS, FlowConfig(classes=classes, route=RoutePolicy(**route)))
        self.granted: dict[str, str] = {}
        self.refused: dict[str, Outcome] = {}
        for replica in replicas or ("r",):
            self.flow.report(ReplicaReport(replica, frozenset()), 0.0)

    def submit(self, name: str, class_name: str, tokens: int, at_s: float, **fields: object) -> bool:
        """Whether it went to an engine at once."""
        ticket = Ticket(name, 0, at_s, class_name=class_name, prompt_tokens=tokens, **fields)
        self.follow(self.flow.submit(ticket, at_s))
        return name in self.granted

    def follow(self, actions) -> None:
        for action in actions:
            if isinstance(action, Granted):
                self.granted[action.lease.ticket_id] = action.lease.replica_id
            elif isinstance(action, Refused):
                self.refused[action.ticket_id] = action.outcome

    def first_token(self, name: str, at_s: float, heard_s: float | None = None) -> None:
        self.follow(self.flow.first_token(name, at_s, heard_s))

    def tick(self, at_s: float) -> None:
        self.follow(self.flow.tick(at_s))


@pytest.mark.parametrize("class_name", ["standard", "batch"])
def test_an_engine_with_prompts_to_compute_gets_urgent_ones_only(class_name):
    one = Flow()
    assert one.submit("first", class_name, A_SECOND, 0.0)
    assert not one.submit("second", class_name, A_SECOND, 0.0)
    assert one.submit("urgent", "interactive", 100, 0.1)
    assert one.submit("urgent too", "interactive", 100, 0.1)


def test_a_fifth_of_the_urgent_promise_may_be_ahead():
    one = Flow()
    assert one.submit("0.35 s", "batch", round(0.35 * A_SECOND), 0.0)
    assert one.submit("0.3 s more", "batch", round(0.3 * A_SECOND), 0.0)
    assert not one.submit("too much", "batch", 1, 0.0)


def test_prompts_that_are_computed_let_the_next_one_go():
    one = Flow()
    one.submit("first", "batch", A_SECOND, 0.0)
    one.submit("second", "batch", A_SECOND, 0.0)
    one.submit("third", "batch", A_SECOND, 0.0)
    # Heard of later than it came: nobody is sent before he came.
    one.submit("late", "interactive", 1, 0.95)
    one.first_token("first", 0.9, 1.0)
    assert "second" in one.granted
    assert "third" not in one.granted


def test_the_engine_is_followed_between_first_tokens():
    one = Flow()
    one.submit("first", "batch", A_SECOND, 0.0)
    one.submit("second", "batch", A_SECOND, 0.0)
    one.tick(0.5)
    assert "second" not in one.granted
    one.tick(0.7)
    assert "second" in one.granted


def test_a_first_token_sends_nobody_who_waits_for_a_place():
    one = Flow()
    for number in range(101):
        one.submit(f"t{number}", "interactive", 1, 0.0)
    one.first_token("t0", 0.1)
    assert "t100" not in one.granted


def test_an_engine_that_has_room_gets_it():
    one = Flow("a", "b")
    # A session sticks to its engine, but not behind other prompts.
    assert one.submit("first", "batch", A_SECOND, 0.0, session_id="s")
    assert one.submit("second", "batch", A_SECOND, 0.0, session_id="s")
    assert one.granted["second"] != one.granted["first"]
    assert not one.submit("third", "batch", A_SECOND, 0.0, session_id="s")


def test_a_class_that_is_owed_its_share_waits_for_no_prompts():
    owed = (*CLASSES[:2], ClassPolicy("batch", boost_s=0.0, min_share=0.5, ttft_budget_s=60.0))
    one = Flow(classes=owed)
    one.submit("ahead", "standard", A_SECOND, 0.0)
    assert not one.submit("batch", "batch", 100, 0.0)
    # What it is owed grows with what the others get.
    assert one.submit("urgent", "interactive", 100, 0.0)
    one.tick(0.01)
    assert "batch" in one.granted


def test_who_waits_for_one_class_is_not_in_the_way_of_another():
    """Batch waits for a promise that is shorter than its own; standard may, with no interactive class, go."""
    one = Flow(classes=CLASSES[1:])
    one.submit("ahead", "standard", 2 * A_SECOND, 0.0)
    one.submit("more", "standard", A_SECOND, 0.0)
    assert not one.submit("batch", "batch", 100, 0.0)
    assert one.submit("standard", "standard", 100, 0.0)


def test_the_share_can_be_so_large_that_nobody_waits():
    one = Flow(prefill_share=1e9)
    assert all(one.submit(f"t{number}", "batch", A_SECOND, 0.0) for number in range(10))


def test_it_is_predicted_to_wait_for_the_prompts_before_it():
    one = Flow()
    for number in range(5):
        one.submit(f"t{number}", "batch", A_SECOND, 0.0)
    assert one.flow.predicted_ttft_s("t4") == pytest.approx(5.0, rel=0.1)


def test_the_best_engine_is_what_counts():
    one = Flow("a", "b")
    one.submit("ahead", "batch", 4 * A_SECOND, 0.0)
    # Two seconds on the mean of both engines, which is the whole promise.
    assert one.submit("urgent", "interactive", 100, 0.0)
    assert one.granted["urgent"] != one.granted["ahead"]
    assert one.flow.predicted_ttft_s("urgent") == pytest.approx(0.07, abs=0.01)


def test_where_no_engine_takes_it_now_their_mean_counts():
    one = Flow("a", "b")
    one.submit("ahead", "interactive", A_SECOND, 0.0)
    one.flow.replica_unroutable("a", 0.0)
    one.flow.replica_unroutable("b", 0.0)
    assert not one.submit("urgent", "interactive", 100, 0.0)
    assert one.flow.predicted_ttft_s("urgent") == pytest.approx(0.57, abs=0.01)


def test_who_would_be_late_in_its_engine_is_not_sent_there():
    one = Flow()
    one.submit("ahead", "batch", round(0.7 * A_SECOND), 0.0)
    one.submit("waits", "standard", A_SECOND // 2, 0.0, ttft_budget_s=1.3)
    # Nobody could foresee this one when the other was let in.
    assert one.submit("urgent", "interactive", round(0.4 * A_SECOND), 0.3)
    one.tick(0.7)
    assert one.refused == {}
    # There is room now, still in time to leave the queue, but 0.4 s and its own prompt are ahead of it.
    one.tick(0.77)
    assert one.refused == {"waits": Outcome.EVICTED_DEADLINE}


def test_an_end_to_end_promise_is_checked_in_the_engine_that_it_would_get():
    one = Flow()
    one.submit("ahead", "standard", A_SECOND, 0.0)
    one.submit("waits", "standard", 100, 0.0, deadline_s=1.5, max_output_tokens=1)
    # It takes longer than was predicted.
    one.tick(1.49)
    assert one.refused == {"waits": Outcome.EVICTED_DEADLINE}


def test_held_requests_end_as_any_others():
    one = Flow()
    one.submit("first", "batch", A_SECOND, 0.0)
    one.submit("second", "batch", A_SECOND, 0.0)
    one.follow(one.flow.close("first", Outcome.COMPLETED, 0.2, Usage(A_SECOND, 1)))
    one.follow(one.flow.close("second", Outcome.COMPLETED, 1.5, Usage(A_SECOND, 1)))
    snapshot = one.flow.snapshot(2.0)
    assert (snapshot.queued, snapshot.in_flight) == (0, 0)
    assert one.flow._pool.prefill_tokens == 0


@pytest.mark.parametrize("share", [-0.1, float("nan")])
def test_a_share_below_nothing_would_let_nobody_go(share):
    with pytest.raises(ValueError, match=r"route\.prefill_share: "):
        FlowConfig(route=RoutePolicy(prefill_share=share))
