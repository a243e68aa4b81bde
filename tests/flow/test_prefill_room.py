"""Prompts of less urgent classes wait where they would be in the way of more urgent first tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.flow import COMPILED
from app.flow.config import ClassPolicy, FlowConfig, Limits, RoutePolicy
from app.flow.controller import FlowController
from app.flow.outcome import Outcome
from app.flow.ticket import EngineMetrics, Granted, Refused, ReplicaReport, Revoke, Ticket, Usage

pytestmark = pytest.mark.skipif(COMPILED, reason="sets what the core would learn: interpreted only")

LIMITS = Limits(
    max_queued=100, max_queue_wait_s=60.0, requests_per_replica=100, lease_ttl_s=1e6, replica_ttl_s=1e6
)
# Minimum shares are tested on their own; 2,000 prompt tokens take a second, as if engines had counted.
CLASSES = (
    ClassPolicy("interactive", boost_s=70.0, min_share=0.0, ttft_budget_s=2.0),
    ClassPolicy("standard", boost_s=60.0, min_share=0.0, ttft_budget_s=10.0),
    ClassPolicy("batch", boost_s=0.0, min_share=0.0, ttft_budget_s=60.0),
)
A_SECOND = 2000


class Flow:
    """Engines with places for all, interactive requests that ask for some; who was sent where, or not."""

    def __init__(
        self,
        *replicas: str,
        classes: tuple[ClassPolicy, ...] = CLASSES,
        limits: Limits = LIMITS,
        urgent_places: float = 1.0,
        uniform: Callable[[], float] = lambda: 0.5,
        **route: float,
    ) -> None:
        config = FlowConfig(classes=classes, route=RoutePolicy(**route))
        self.flow = FlowController(limits, config, uniform)
        self.flow._pool.pace.learnt_s = 0.0
        self.flow._predictor.urgent_places = lambda rank, now_s: urgent_places if rank else 0.0
        self.granted: dict[str, str] = {}
        self.refused: dict[str, Outcome] = {}
        self.revoked: list[str] = []
        for replica in replicas or ("r",):
            self.flow.report(ReplicaReport(replica, frozenset()), 0.0)
        self.tick(0.0)

    def submit(
        self, name: str, class_name: str, tokens: int, at_s: float, age_s: float = 0.0, **fields: object
    ) -> bool:
        """Whether it went to an engine at once."""
        ticket = Ticket(name, 0, at_s - age_s, class_name=class_name, prompt_tokens=tokens, **fields)
        self.follow(self.flow.submit(ticket, at_s))
        return name in self.granted

    def follow(self, actions) -> None:
        for action in actions:
            if isinstance(action, Granted):
                self.granted[action.lease.ticket_id] = action.lease.replica_id
            elif isinstance(action, Refused):
                self.refused[action.ticket_id] = action.outcome
            elif isinstance(action, Revoke):
                self.revoked.append(action.ticket_id)

    def first_token(self, name: str, at_s: float, heard_s: float | None = None) -> None:
        self.follow(self.flow.first_tokens([(name, at_s)], at_s if heard_s is None else heard_s))

    def end(self, name: str, at_s: float) -> None:
        self.follow(self.flow.close(name, Outcome.COMPLETED, at_s, Usage(1, 1)))

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
    for name in ("first", "second", "third"):
        one.submit(name, "batch", A_SECOND, 0.0)
    # Heard of later than it came: what is sent then has waited until then.
    (granted,) = one.flow.first_tokens([("first", 0.9)], 1.0)
    assert (granted.lease.ticket_id, granted.queue_wait_s) == ("second", 1.0)
    assert one.flow.first_tokens([], 1.0) == []


def test_the_engine_is_followed_between_first_tokens():
    one = Flow()
    one.submit("first", "batch", A_SECOND, 0.0)
    one.submit("second", "batch", A_SECOND, 0.0)
    one.tick(0.5)
    assert "second" not in one.granted
    one.tick(0.7)
    assert "second" in one.granted


def test_first_tokens_that_are_heard_together_are_learnt_before_anybody_is_sent():
    one = Flow()
    one.submit("a", "interactive", A_SECOND // 2, 0.0)
    one.submit("b", "interactive", A_SECOND // 2, 0.0)
    one.submit("first", "batch", A_SECOND, 0.0)
    one.submit("second", "batch", A_SECOND, 0.0)
    actions = one.flow.first_tokens([("a", 1.0), ("b", 1.0)], 1.5)
    assert [action.lease.ticket_id for action in actions] == ["first"]
    # The clock has not run twice from 1.0 to 1.5: of the second that the first one takes nothing is over.
    assert one.flow._pool.replicas["r"].clock.delay_s(0, 3, 1.5) == pytest.approx(1.0, abs=0.05)


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
    assert "batch" in one.granted


def test_what_a_class_had_too_much_is_not_forgotten_while_it_asks_for_nothing():
    owed = (*CLASSES[:2], ClassPolicy("batch", boost_s=0.0, min_share=0.05, ttft_budget_s=60.0))
    one = Flow(classes=owed)
    assert one.submit("long", "batch", A_SECOND, 0.0)
    assert one.submit("urgent", "interactive", 100, 0.1)
    # It has had nearly all: a twentieth of the little that others got is no reason to stand before them.
    assert not one.submit("as long", "batch", A_SECOND, 0.2)
    assert one.submit("more urgent", "interactive", 100, 0.3)
    assert "as long" not in one.granted


def test_where_nobody_more_urgent_asks_nobody_waits_for_prompts():
    one = Flow(urgent_places=0.0)
    assert all(one.submit(f"t{number}", "batch", A_SECOND, 0.0) for number in range(10))


def test_a_newcomer_does_not_pass_those_of_more_urgent_classes_that_wait_for_prompts():
    one = Flow()
    one.submit("ahead", "interactive", A_SECOND, 0.0)
    for name in ("standard 1", "standard 2"):
        assert not one.submit(name, "standard", A_SECOND, 0.0)
    # There is room by now, and nobody has looked since.
    assert not one.submit("batch", "batch", 100, 0.65)
    assert "standard 1" in one.granted


def test_who_waits_for_prompts_leaves_places_to_more_urgent_ones():
    one = Flow(limits=replace(LIMITS, requests_per_replica=2))
    one.submit("ahead", "interactive", A_SECOND, 0.0)
    assert not one.submit("batch", "batch", 100, 0.0)
    assert one.submit("last place", "interactive", 100, 0.1)
    assert not one.submit("urgent", "interactive", 100, 0.2)
    one.end("ahead", 1.1)
    assert "urgent" in one.granted
    assert "batch" not in one.granted


def test_an_engine_without_room_for_the_tokens_does_not_stop_the_others():
    one = Flow("a", "b")
    full = EngineMetrics(running=1, waiting=0, kv_use=0.5, kv_capacity_tokens=1000)
    one.submit("in a", "interactive", 10, 0.0, max_output_tokens=1000)
    one.submit("in b", "interactive", A_SECOND, 0.0)
    assert one.granted == {"in a": "a", "in b": "b"}
    one.first_token("in a", 0.1)
    one.follow(one.flow.report(ReplicaReport("a", frozenset({"in a"}), metrics=full), 0.2))
    # It does not fit on a, and b has prompts to compute.
    assert not one.submit("batch", "batch", 900, 0.2)
    assert one.submit("urgent", "interactive", 900, 0.2)
    assert one.granted["urgent"] == "b"


def test_a_queue_that_is_full_of_waiting_prompts_lets_urgent_ones_through():
    one = Flow(limits=replace(LIMITS, max_queued=3))
    for number in range(4):
        one.submit(f"t{number}", "batch", A_SECOND, 0.0)
    assert one.submit("urgent", "interactive", 100, 0.1)
    assert one.refused == {}
    assert not one.submit("one more", "batch", 100, 0.1)
    assert one.refused == {"one more": Outcome.REJECTED_FULL}


def test_who_waits_for_prompts_takes_nobodys_place():
    one = Flow()
    one.submit("batch", "batch", A_SECOND, 0.0, revocable=True)
    for number in range(3):
        one.submit(f"t{number}", "standard", 3 * A_SECOND, 0.0)
    one.tick(0.1)
    assert one.revoked == []


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
    one.submit("in a", "batch", 5 * A_SECOND, 0.0)
    one.submit("in b", "batch", 100, 0.0)
    one.first_token("in b", 0.1)
    # Neither is idle; on the mean of both it would wait for 2.5 s, beyond its promise.
    assert one.submit("urgent", "interactive", 100, 0.2)
    assert one.granted["urgent"] == one.granted["in b"]


@pytest.mark.parametrize("ahead_s", [1.5, 3])
def test_of_many_engines_the_soonest_counts_where_those_drawn_may_be_too_late(ahead_s: float):
    drawn = iter([0.0, 0.0, 0.0, 0.2] * 9)
    one = Flow("a", "b", "c", "d", "e", urgent_places=0.0, uniform=lambda: next(drawn))
    router = one.flow._router
    for number in range(5):
        engine = one.flow._pool.replicas["abcde"[number]]
        router.find = lambda ticket, *_, engine=engine: router.choice(engine, ticket, 0.0)
        one.submit(f"long{number}", "batch", 100 if number == 3 else round(ahead_s * A_SECOND), 0.0)
    del router.find
    assert one.granted == {"long0": "a", "long1": "b", "long2": "c", "long3": "d", "long4": "e"}
    assert one.submit("urgent", "interactive", 100, 0.1)
    assert one.granted["urgent"] == "d"


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
    assert not one.submit("waits", "standard", 100, 0.0, deadline_s=1.4, max_output_tokens=1)
    one.submit("urgent", "interactive", round(0.4 * A_SECOND), 0.1)
    # Its own prompt would be in time, but 0.38 s are ahead of it.
    one.tick(1.06)
    assert one.refused == {"waits": Outcome.EVICTED_DEADLINE}


def test_what_is_too_late_at_dispatch_is_an_answer_that_late_for_the_autoscaler():
    one = Flow()
    one.submit("ahead", "batch", round(0.7 * A_SECOND), 0.0)
    one.submit("waits", "standard", A_SECOND // 2, 0.0, ttft_budget_s=1.3)
    one.submit("urgent", "interactive", round(0.4 * A_SECOND), 0.3)
    told = []
    one.flow._meter.first_token = lambda rank, ttft_s, *_: told.append((rank, ttft_s))
    one.tick(0.77)
    assert told == [(1, pytest.approx(1.66, abs=0.02))]


def test_milliseconds_on_the_way_change_nothing():
    one = Flow()
    one.submit("ahead", "interactive", round(1.5 * A_SECOND), 0.0)
    assert one.submit("urgent", "interactive", round(0.4 * A_SECOND), 0.0, age_s=0.003)


def test_the_status_says_how_long_prompts_are_waited_for():
    one = Flow()
    one.submit("ahead", "interactive", A_SECOND, 0.0)
    waits = {each.name: each.expected_wait_s for each in one.flow.detail(1, 0.0).classes}
    assert waits["interactive"] == 0.0
    assert waits["standard"] > 0.0


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


def test_without_affinity_a_session_is_like_any_other_request():
    one = Flow("a", "b", affinity=False)
    one.submit("first", "interactive", 100, 0.0, session_id="s")
    one.submit("second", "interactive", 100, 0.0, session_id="s")
    assert one.granted["second"] != one.granted["first"]


def test_of_many_engines_room_is_looked_for_now_and_then():
    one = Flow("a", "b", "c", "d", "e")
    for number in range(5):
        assert one.submit(f"ahead{number}", "batch", A_SECOND, 0.0)
    assert not one.submit("waits", "batch", 100, 0.0)
    one.first_token("ahead0", 0.002)
    assert "waits" not in one.granted
    one.first_token("ahead1", 0.006)
    assert "waits" in one.granted


def with_cache(one: Flow, replica: str, *live: str, tokens: int = 1000) -> None:
    """The engine says how many tokens its cache holds; 95 % of them are given away."""
    said = EngineMetrics(running=len(live), waiting=0, kv_use=0.5, kv_capacity_tokens=tokens)
    one.follow(one.flow.report(ReplicaReport(replica, frozenset(live), metrics=said), 0.0))


def test_newcomers_do_not_pass_one_that_waits_for_room_in_the_cache():
    one = Flow(urgent_places=0.0)
    with_cache(one, "r")
    assert one.submit("runs", "standard", 300, 0.0, max_output_tokens=100)
    assert not one.submit("long", "standard", 700, 0.0, max_output_tokens=100)
    assert not one.submit("small", "batch", 10, 0.1, max_output_tokens=10)
    # More urgent ones would be first in any order.
    assert one.submit("urgent", "interactive", 10, 0.1, max_output_tokens=10)
    one.end("urgent", 0.2)
    one.end("runs", 0.3)
    assert {"long", "small"} <= set(one.granted)


def test_nobody_passes_one_that_is_owed_the_room_in_the_cache():
    owed = (*CLASSES[:2], ClassPolicy("batch", boost_s=0.0, min_share=0.5, ttft_budget_s=60.0))
    one = Flow(urgent_places=0.0, classes=owed)
    with_cache(one, "r")
    assert one.submit("runs", "standard", 300, 0.0, max_output_tokens=100)
    assert not one.submit("long", "batch", 700, 0.0, max_output_tokens=100)
    assert one.submit("urgent", "interactive", 10, 0.1, max_output_tokens=10)
    one.tick(0.15)
    assert not one.submit("more urgent", "interactive", 10, 0.2, max_output_tokens=10)
    one.end("urgent", 0.3)
    one.end("runs", 0.4)
    assert {"long", "more urgent"} <= set(one.granted)


def two_full_engines(**shares: float) -> Flow:
    """Each has room for 1,000 tokens or less; nothing of 700 fits; that of `second` has more free."""
    classes = tuple(replace(one, min_share=shares.get(one.name, 0.0)) for one in CLASSES)
    one = Flow("a", "b", urgent_places=0.0, classes=classes)
    with_cache(one, "a")
    with_cache(one, "b")
    one.submit("first", "interactive", 400, 0.0, max_output_tokens=100)
    one.submit("second", "interactive", 300, 0.0, max_output_tokens=100)
    return one


def test_one_engine_empties_for_one_that_is_owed_and_the_others_go_on():
    one = two_full_engines(batch=0.3)
    assert not one.submit("long", "batch", 700, 0.1, max_output_tokens=100)
    # By this one it comes to be owed a share.
    assert one.submit("urgent", "interactive", 10, 0.1, max_output_tokens=10)
    one.tick(0.2)
    kept, other = one.granted["second"], one.granted["first"]
    for number in range(3):
        assert one.submit(f"urgent{number}", "interactive", 10, 0.2, max_output_tokens=10)
        assert one.granted[f"urgent{number}"] == other
    # Who is no more urgent waits behind it.
    assert not one.submit("batch", "batch", 10, 0.3, max_output_tokens=10)
    for name in [name for name, replica in one.granted.items() if replica == kept]:
        one.end(name, 0.4)
    assert one.granted["long"] == kept


def test_one_that_fits_nowhere_holds_back_less_urgent_ones_only():
    one = Flow(urgent_places=0.0, limits=replace(LIMITS, requests_per_replica=2))
    with_cache(one, "r")
    for name in ("runs", "also runs"):
        one.submit(name, "standard", 300, 0.0, max_output_tokens=100)
    # It had a place before: it is next, and there is no room for it.
    assert not one.submit("moved", "batch", 700, 0.1, max_output_tokens=100, moved=True)
    assert not one.submit("urgent", "interactive", 10, 0.2, max_output_tokens=10)
    assert not one.submit("batch", "batch", 10, 0.2, max_output_tokens=10)
    one.end("also runs", 0.3)
    assert ("urgent" in one.granted, "moved" in one.granted, "batch" in one.granted) == (True, False, False)
    for name in ("runs", "urgent"):
        one.end(name, 0.4)
    assert "moved" in one.granted


def test_while_places_are_plenty_who_finds_one_is_refused_only_if_it_is_more_likely_late_than_not():
    """No queue stands, or whoever comes finds a place."""
    outcomes = []
    for stood_s, left in ((0.0, 100.0), (5.0, 0.0), (5.0, 100.0)):
        one = Flow(urgent_places=0.0)
        one.flow._doors.standing.value_s = stood_s
        one.flow._queue.classes[2].reserve = left
        # A third of the first tokens come half as late again as predicted.
        for number in range(60):
            one.flow._predictor.first_token(None, 1.6, 2.4 if number % 3 == 0 else 1.6)
        one.submit("runs", "standard", 100, 0.0)
        outcomes.append(one.submit("likely", "interactive", int(1.5 * A_SECOND), 0.1))
    assert outcomes == [True, True, False]


def test_while_no_engine_can_be_reached_none_is_kept():
    one = two_full_engines(batch=0.3)
    assert not one.submit("long", "batch", 700, 0.1, max_output_tokens=100)
    assert one.submit("urgent", "interactive", 10, 0.1, max_output_tokens=10)
    for replica in ("a", "b"):
        one.flow.replica_unroutable(replica, 0.1)
    one.tick(0.2)
    assert one.flow._router.kept is None


def test_one_engine_is_enough_for_several_that_are_owed():
    one = two_full_engines(standard=0.3, batch=0.3)
    assert not one.submit("long", "batch", 700, 0.1, max_output_tokens=100)
    assert not one.submit("as long", "standard", 700, 0.1, max_output_tokens=100)
    assert one.submit("urgent", "interactive", 10, 0.2, max_output_tokens=10)
    one.end("second", 0.4)
    assert ("long" in one.granted) != ("as long" in one.granted)


def test_a_less_urgent_class_does_not_pass_one_that_waits_for_prompts():
    one = Flow("a", "b")
    one.submit("in a", "interactive", A_SECOND, 0.0)
    one.submit("in b", "interactive", 400, 0.0, max_output_tokens=100)
    one.first_token("in b", 0.22)
    with_cache(one, "b", "in b")
    # It fits only on a, which has prompts; the small one would fit on b.
    assert not one.submit("standard", "standard", 600, 0.3, max_output_tokens=100)
    assert not one.submit("batch", "batch", 10, 0.3, max_output_tokens=10)


def test_nobody_takes_a_place_whose_tokens_are_too_few():
    one = Flow(limits=replace(LIMITS, requests_per_replica=2), urgent_places=0.0)
    with_cache(one, "r")
    one.submit("runs", "batch", 300, 0.0, max_output_tokens=100)
    one.submit("loser", "batch", 100, 0.0, max_output_tokens=100, revocable=True)
    one.submit("large", "interactive", 800, 0.1, max_output_tokens=100)
    one.tick(0.9)
    assert one.revoked == []
    one.submit("small", "interactive", 100, 0.9, max_output_tokens=100, ttft_budget_s=0.2)
    assert (one.revoked, "small" in one.granted) == ([], False)


def test_a_long_prompt_gets_an_idle_engine_though_it_takes_longer_than_the_promise():
    one = Flow()
    assert one.submit("long", "interactive", 3 * A_SECOND, 0.0, age_s=0.003)


def test_what_has_waited_for_too_long_elsewhere_gets_no_engine():
    one = Flow()
    assert not one.submit("old", "batch", 10, 100.0, age_s=61.0)
    assert one.refused == {"old": Outcome.EVICTED_TIMEOUT}
