"""The order: shares, virtual arrival, counters, deadlines."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.flow.config import ClassPolicy, FairnessPolicy, TenantPolicy
from app.flow.queue import Entry, FlowQueue
from app.flow.tenants import Account
from app.flow.ticket import Ticket

CLASSES = (
    ClassPolicy("high", boost_s=10.0, min_share=0.0, ttft_budget_s=100.0),
    ClassPolicy("low", boost_s=0.0, min_share=0.0, ttft_budget_s=100.0),
)
SHARED = (
    ClassPolicy("high", boost_s=1e6, min_share=0.0, ttft_budget_s=100.0),
    ClassPolicy("low", boost_s=0.0, min_share=0.2, ttft_budget_s=100.0),
)
PAPER = FairnessPolicy(return_credit=0.0)


class Desk:
    """A queue whose every dispatch costs the same."""

    def __init__(self, classes=CLASSES, fairness: FairnessPolicy = PAPER) -> None:
        self.queue = FlowQueue(classes, fairness)
        self.accounts: dict[str, Account] = {}

    def account(self, tenant: str, policy: TenantPolicy | None = None) -> Account:
        return self.accounts.setdefault(tenant, Account(tenant, policy or TenantPolicy(), 0.0))

    def put(
        self,
        name: str,
        rank: int = 0,
        tenant: str = "a",
        at_s: float = 0.0,
        expires_s: float = 100.0,
        kept: bool = False,
    ):
        """`kept`: it has a place of its own."""
        account = self.account(tenant)
        flow = self.queue.classes[rank].order.flow(account)
        entry = Entry(Ticket(name, 0, at_s, tenant=tenant), rank, account, flow, 100.0, expires_s)
        if kept:
            entry.flow = self.queue.classes[rank].order.lane
        self.queue.push(entry)
        return entry

    def take(self, cost: float = 1.0) -> str | None:
        entry = self.queue.next(1, len(CLASSES))
        if entry is None:
            return None
        self.queue.remove(entry)
        self.queue.classes[entry.rank].order.charge(entry.payer, cost)
        self.queue.served(entry.rank, cost, 0.0)
        entry.account.running += 1
        return entry.ticket.ticket_id


def test_an_empty_queue_has_nobody_to_serve():
    assert Desk().take() is None


def test_a_class_is_overtaken_only_by_arrivals_within_the_difference_of_boosts():
    desk = Desk()
    desk.put("low", rank=1, at_s=0.0)
    desk.put("later", at_s=9.0)
    desk.put("too-late", at_s=11.0)
    assert [desk.take() for _ in range(3)] == ["later", "low", "too-late"]


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(0, 50)), min_size=1, max_size=40))
def test_no_ticket_of_a_tenant_is_overtaken_from_beyond_the_boost(arrivals):
    desk = Desk()
    arrived = {f"t{n}": (rank, at_s) for n, (rank, at_s) in enumerate(arrivals)}
    for name, (rank, at_s) in arrived.items():
        desk.put(name, rank, at_s=at_s, expires_s=at_s + 100)
    served = [desk.take() for _ in arrivals]
    for place, name in enumerate(served):
        for later in served[place + 1 :]:
            assert arrived[name][1] <= arrived[later][1] + 10.0


def test_equal_deadlines_are_served_in_the_order_of_submission():
    desk = Desk()
    for name in "abcdef":
        desk.put(name)
    assert [desk.take() for _ in range(6)] == list("abcdef")


def test_the_earliest_deadline_of_a_tenant_is_first():
    desk = Desk()
    desk.put("late", expires_s=50.0)
    desk.put("soon", expires_s=10.0)
    assert desk.take() == "soon"


def test_a_waiting_class_gets_its_minimum_share_of_the_cost():
    desk = Desk(SHARED)
    for number in range(400):
        desk.put(f"h{number}")
        desk.put(f"l{number}", rank=1, tenant="b")
    costs = random.Random(0)
    total = low = 0.0
    for _ in range(300):
        cost = costs.uniform(1, 100)
        low += cost if desk.take(cost).startswith("l") else 0.0
        total += cost
        assert low >= 0.2 * total - 2 * 100


@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(1, 50)), max_size=20), st.integers(0, 1), st.booleans()
)
def test_a_place_that_is_taken_back_leaves_no_trace_in_the_credits(served, rank, waits):
    desk = Desk(SHARED)
    if waits:
        desk.put("low", rank=1)
    for one, cost in served:
        desk.queue.served(one, cost, 0.0)
    before = [one.credit for one in desk.queue.classes]
    desk.queue.taken_back(desk.queue.served(rank, 30.0, 0.0))
    assert [one.credit for one in desk.queue.classes] == pytest.approx(before)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1, 50)), min_size=30, max_size=150))
def test_counters_of_waiting_tenants_stay_within_the_largest_charge(steps):
    desk = Desk()
    number = 0
    for tenant in "abcd":
        for _ in range(len(steps)):
            number += 1
            desk.put(f"t{number}", tenant=tenant)
    for _, cost in steps:
        desk.take(cost)
        counters = [flow.counter for flow in desk.queue.classes[0].order.flows.values() if flow.size]
        assert max(counters) - min(counters) <= 50.0


def test_weights_divide_what_is_contended():
    desk = Desk()
    desk.account("b", TenantPolicy(weight=3.0))
    for number in range(400):
        desk.put(f"a{number}", tenant="a")
        desk.put(f"b{number}", tenant="b")
    served = [desk.take() for _ in range(400)]
    assert sum(name.startswith("b") for name in served) == pytest.approx(300, abs=3)


def test_a_returning_tenant_is_lifted_to_those_that_wait():
    desk = Desk()
    for number in range(20):
        desk.put(f"a{number}", tenant="a")
    for _ in range(10):
        desk.take()
    for number in range(10):
        desk.put(f"b{number}", tenant="b")
    served = [desk.take() for _ in range(10)]
    assert sum(name.startswith("b") for name in served) in (5, 6)


def test_a_returning_tenant_may_keep_some_credit():
    desk = Desk(fairness=FairnessPolicy(return_credit=4.0))
    for number in range(20):
        desk.put(f"a{number}", tenant="a")
    for _ in range(10):
        desk.take()
    for number in range(10):
        desk.put(f"b{number}", tenant="b")
    assert [desk.take()[0] for _ in range(4)] == ["b"] * 4


def test_a_refund_brings_a_tenant_forward_and_a_surcharge_back():
    desk = Desk()
    for name, tenant in [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")]:
        desk.put(name, tenant=tenant)
    assert [desk.take(10.0), desk.take(10.0)] == ["a1", "b1"]
    order = desk.queue.classes[0].order
    order.charge(order.flows["b"], -15.0)
    order.charge(order.flows["c"], 20.0)
    assert [desk.take() for _ in range(3)] == ["b2", "a2", "c1"]


def test_refunds_without_end_do_not_grow_the_heap():
    desk = Desk()
    desk.put("a1")
    order = desk.queue.classes[0].order
    for _ in range(1000):
        order.charge(order.flows["a"], -1.0)
        order.charge(order.flows["a"], 1.0)
    assert len(order._heap) < 100
    assert desk.take() == "a1"


def test_arrivals_and_departures_without_end_do_not_grow_the_queue():
    desk = Desk()
    keeper = [desk.put(f"keep{n}", at_s=0.0, expires_s=1.0) for n in range(2)]
    for number in range(1000):
        desk.queue.remove(desk.put(f"t{number}", at_s=float(number), expires_s=500.0))
    assert len(desk.queue._expiry) < 100
    assert len(desk.queue.classes[0].arrivals._entries) < 100
    assert len(keeper[0].flow.heap) < 100
    assert desk.queue.classes[0].arrivals.oldest() is keeper[0]


def test_an_older_ticket_that_is_submitted_later_goes_before():
    desk = Desk()
    young = desk.put("young", at_s=5.0)
    old = desk.put("old", at_s=1.0)
    arrivals = desk.queue.classes[0].arrivals
    assert (arrivals.oldest(), arrivals.newest()) == (old, young)
    desk.queue.remove(young)
    assert arrivals.newest() is old


def test_an_id_that_is_queued_already_is_refused():
    desk = Desk()
    desk.put("a")
    with pytest.raises(ValueError, match="ticket_id: a is queued"):
        desk.put("a")
    assert len(desk.queue) == 1


def test_the_least_urgent_is_the_newest_of_the_last_class_that_waits():
    desk = Desk()
    desk.put("high")
    assert desk.queue.least_urgent(0) is None
    desk.put("old", rank=1, at_s=1.0)
    newest = desk.put("new", rank=1, at_s=2.0)
    assert desk.queue.least_urgent(0) is newest


def test_a_tenant_at_its_cap_is_passed_over_until_one_of_its_requests_ends():
    desk = Desk()
    capped = desk.account("a", TenantPolicy(max_running=1))
    for name in ("a1", "a2"):
        desk.put(name, tenant="a")
    desk.put("b1", tenant="b")
    assert [desk.take(), desk.take(), desk.take()] == ["a1", "b1", None]
    desk.put("a3", tenant="a")
    capped.running = 0
    [(order, flow)] = capped.parked.items()
    order.unpark(flow)
    order.unpark(flow)
    assert desk.take() == "a2"


def test_a_class_held_back_by_caps_builds_up_no_claim():
    desk = Desk(SHARED)
    desk.account("b", TenantPolicy(max_running=0))
    desk.put("low", rank=1, tenant="b")
    for number in range(10):
        desk.put(f"h{number}")
        desk.take(100.0)
    desk.queue.next(1, len(CLASSES))
    assert desk.queue.classes[1].credit <= 20.0


def test_the_lane_of_promises_is_first_and_paid_for_by_its_tenants():
    desk = Desk()
    desk.put("plain", tenant="a")
    desk.put("kept", tenant="b", kept=True)
    order = desk.queue.classes[0].order
    assert [desk.take(), desk.take()] == ["kept", "plain"]
    assert order.flows["b"].counter == 1.0


def test_in_the_lane_a_tenant_at_its_cap_is_passed_over_until_one_of_its_requests_ends():
    """Two came while one of them might run."""
    desk = Desk()
    capped = desk.account("b", TenantPolicy(max_running=1))
    desk.put("plain", tenant="a")
    for name, tenant in [("b1", "b"), ("b2", "b"), ("b3", "b"), ("c1", "c")]:
        desk.put(name, tenant=tenant, kept=True)
    assert [desk.take() for _ in range(4)] == ["b1", "c1", "plain", None]
    order = desk.queue.classes[0].order
    assert (order.lane.size, order.flows["b"].size, order.waiting) == (0, 2, 1)
    capped.running = 0
    capped.unpark()
    assert [desk.take(), desk.take()] == ["b2", None]
    desk.queue.remove(desk.queue.get("b3"))
    assert (len(desk.queue), order.waiting) == (0, 0)


def test_expired_entries_are_found_once():
    desk = Desk()
    gone = desk.put("gone", expires_s=1.0)
    late = desk.put("late", expires_s=2.0)
    desk.put("fine", expires_s=9.0)
    desk.queue.remove(gone)
    assert desk.queue.any_expired(3.0)
    assert desk.queue.expired(3.0) == [late]
    assert desk.queue.expired(3.0) == []


def test_without_fairness_a_class_is_one_line():
    desk = Desk(fairness=FairnessPolicy(enabled=False))
    for name, tenant in [("a1", "a"), ("a2", "a"), ("b1", "b")]:
        desk.put(name, tenant=tenant)
    assert [desk.take() for _ in range(3)] == ["a1", "a2", "b1"]
    desk.queue.classes[0].order.forget("")
    assert desk.queue.classes[0].order.flows == {}


def test_what_a_tenant_takes_while_there_are_places_for_all_is_not_held_against_it():
    desk = Desk()
    order = desk.queue.classes[0].order
    for number in range(50):
        desk.put(f"alone{number}", tenant="a")
        desk.take()
        order.undisputed(order.flow(desk.account("a")))
    for number in range(5):
        desk.put(f"a{number}", tenant="a")
        desk.put(f"b{number}", tenant="b")
    assert sum(desk.take()[0] == "b" for _ in range(4)) == 2


def test_while_somebody_waits_the_lowest_of_those_decides_what_others_start_with():
    desk = Desk()
    order = desk.queue.classes[0].order
    desk.put("a", tenant="a")
    rich = order.flow(desk.account("rich"))
    order.charge(rich, 50.0)
    order.undisputed(rich)
    assert order.floor == 0.0


def test_a_rebuilt_order_is_the_same_and_holds_only_who_waits():
    desk = Desk()
    order = desk.queue.classes[0].order
    for number in range(2000):
        desk.put(f"gone{number}", tenant=f"gone{number}")
        desk.take()
    for number in range(20):
        desk.put(f"t{number}", tenant=f"t{number}")
        # Listed again and again, lower each time.
        for _ in range(20):
            order.charge(order.flows[f"t{number}"], -1.0)
    assert len(order.flows) == 2020
    order._rebuild()
    assert len(order._heap) == 20
    assert [desk.take() for _ in range(20)] == [f"t{number}" for number in range(20)]


def test_what_waits_is_as_old_as_before_where_the_clock_was_set_back():
    desk = Desk()
    desk.put("old", at_s=3600.0, expires_s=3660.0)
    desk.put("first to expire", tenant="b", at_s=3601.0, expires_s=3630.0)
    desk.queue.set_back(-3600.0)
    desk.put("new", tenant="c", at_s=2.0, expires_s=62.0)
    assert [one.ticket.ticket_id for one in desk.queue.expired(31.0)] == ["first to expire"]
    assert desk.queue.classes[0].arrivals.oldest().ticket.arrived_s == 0.0
    assert desk.take() == "old"


def leaving(reserve: float) -> Desk:
    """Its second class leaves so many places to the first."""
    desk = Desk()
    desk.queue.classes[1].reserve = reserve
    return desk


@pytest.mark.parametrize(
    ("needed", "least"),
    [(None, 11), (3.0, 11), (0.0, 11), (-2.0, 9), (-4.9, 6), (-5.0, 6), (-99.0, 6)],
    ids=str,
)
def test_the_fewer_places_the_next_one_needs_the_sooner_it_has_one_and_half_of_those_left_are_not_touched(
    needed: float | None, least: int
):
    desk = leaving(10.0)
    desk.put("waits", rank=1).needed = needed
    goes = [free for free in range(20) if desk.queue.next(free, 2) is not None]
    assert goes == list(range(least, 20))


def test_what_the_next_one_needs_decides_and_not_who_waits_behind_it():
    desk = leaving(10.0)
    desk.put("dear", rank=1, expires_s=50.0)
    desk.put("cheap", rank=1, expires_s=60.0).needed = -100.0
    assert desk.queue.next(8, 2) is None


def test_none_of_the_places_left_to_others_is_had_before_a_more_urgent_one_that_waits():
    desk = leaving(10.0)
    desk.queue.classes[0].reserve = 9.0
    desk.put("cheap", rank=1).needed = -100.0
    assert desk.queue.next(8, 2).ticket.ticket_id == "cheap"
    urgent = desk.put("urgent", rank=0)
    assert desk.queue.next(8, 2) is None
    # Who waits for its tenant's cap waits for no place.
    desk.account("b", TenantPolicy(max_running=1)).running = 1
    desk.queue.remove(urgent)
    desk.put("capped", rank=0, tenant="b")
    assert desk.queue.next(8, 2).ticket.ticket_id == "cheap"


def test_who_yields_has_none_of_the_places_left_to_others():
    desk = leaving(10.0)
    desk.put("cheap", rank=1).needed = -100.0
    desk.queue.classes[1].yields = True
    assert desk.queue.next(20, 2) is None


def test_at_its_tenants_cap_nobody_has_a_place_however_few_it_needs():
    desk = leaving(10.0)
    desk.account("a", TenantPolicy(max_running=1)).running = 1
    desk.put("cheap", rank=1).needed = -100.0
    assert desk.queue.next(8, 2) is None


def test_first_what_is_left_to_others_has_to_fall_free():
    queue = leaving(10.0).queue.classes[1]
    assert [queue.missing(free) for free in (-2, 0, 4, 10, 11)] == [12.0, 10.0, 6.0, 0.0, 0.0]
    queue.credit = 1.0
    assert queue.missing(0) == 0.0
