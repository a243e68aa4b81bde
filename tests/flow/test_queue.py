"""The queue: strict priorities, first come first served within one, a hard bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.flow.queue import PriorityQueue
from app.flow.ticket import Ticket

priorities = st.integers(-2, 2)
arrivals = st.integers(0, 3).map(float)


def queue_of(*tickets: Ticket, capacity: int = 100) -> PriorityQueue:
    queue = PriorityQueue(capacity)
    for ticket in tickets:
        queue.push(ticket)
    return queue


def ids(queue: PriorityQueue) -> list[str]:
    return [ticket.ticket_id for ticket in queue]


def test_the_lower_priority_number_is_served_first_whenever_it_came():
    queue = queue_of(Ticket("batch", 5, 1.0), Ticket("chat", 0, 9.0))
    assert [queue.pop().ticket_id, queue.pop().ticket_id] == ["chat", "batch"]


def test_within_a_priority_the_first_arrival_is_served_first():
    assert ids(queue_of(Ticket("second", 0, 2.0), Ticket("first", 0, 1.0))) == ["first", "second"]


def test_equal_arrivals_keep_the_order_of_submission():
    assert ids(queue_of(*(Ticket(name, 0, 1.0) for name in "bca"))) == ["b", "c", "a"]


def test_last_is_the_ticket_that_would_be_served_last():
    assert queue_of(Ticket("a", 1, 0.0), Ticket("b", 0, 0.0)).last().ticket_id == "a"


def test_a_full_queue_takes_nothing_and_stays_as_it_is():
    queue = queue_of(Ticket("a", 0, 0.0), capacity=1)
    with pytest.raises(OverflowError, match="capacity: 1"):
        queue.push(Ticket("b", 0, 0.0))
    assert ids(queue) == ["a"]
    assert "b" not in queue


def test_an_id_is_queued_once():
    queue = queue_of(Ticket("a", 0, 0.0))
    with pytest.raises(ValueError, match="ticket_id: a is queued already"):
        queue.push(Ticket("a", 1, 1.0))
    assert len(queue) == 1


def test_removing_an_unknown_id_is_an_error_and_changes_nothing():
    queue = queue_of(Ticket("a", 0, 0.0))
    with pytest.raises(KeyError):
        queue.remove("b")
    assert ids(queue) == ["a"]


def test_an_empty_queue_has_no_first_and_no_last():
    queue = PriorityQueue(1)
    with pytest.raises(IndexError):
        queue.pop()
    with pytest.raises(IndexError):
        queue.last()


@given(
    entries=st.lists(st.tuples(priorities, arrivals), max_size=30),
    removals=st.sets(st.integers(0, 29)),
)
def test_what_is_left_after_removals_comes_out_in_the_order_of_a_stable_sort(entries, removals):
    tickets = [Ticket(str(index), *entry) for index, entry in enumerate(entries)]
    queue = queue_of(*tickets)
    for index in removals & set(range(len(tickets))):
        assert queue.remove(str(index)) == tickets[index]
    left = [ticket for index, ticket in enumerate(tickets) if index not in removals]
    assert len(queue) == len(left)
    popped = [queue.pop() for _ in range(len(left))]
    assert popped == sorted(left, key=lambda ticket: (ticket.priority, ticket.arrived_s))
    assert not queue
