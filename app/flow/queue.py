"""A bounded queue of strict priorities, first come first served within one."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.flow.ticket import Ticket

_Key = tuple[int, float, int]


@dataclass(slots=True)
class PriorityQueue:
    """Tickets by (priority, first arrival, submission); ties keep the order of submission.

    Insertion is a binary search and a move of at most `capacity` references; at the sizes that the
    configuration allows that is microseconds.
    """

    capacity: int
    _order: list[tuple[_Key, Ticket]] = field(default_factory=list)
    _keys: dict[str, _Key] = field(default_factory=dict)
    _submissions: int = 0

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, ticket_id: str) -> bool:
        return ticket_id in self._keys

    def __iter__(self) -> Iterator[Ticket]:
        return (ticket for _, ticket in self._order)

    @property
    def full(self) -> bool:
        return len(self._order) >= self.capacity

    def push(self, ticket: Ticket) -> None:
        """Raises OverflowError when full and ValueError for an id that is queued already."""
        if self.full:
            raise OverflowError(f"capacity: {self.capacity} tickets are queued")
        if ticket.ticket_id in self._keys:
            raise ValueError(f"ticket_id: {ticket.ticket_id} is queued already")
        self._submissions += 1
        key = (ticket.priority, ticket.arrived_s, self._submissions)
        self._keys[ticket.ticket_id] = key
        bisect.insort(self._order, (key, ticket), key=lambda entry: entry[0])

    def pop(self) -> Ticket:
        """The most urgent ticket; IndexError when empty."""
        ticket = self._order[0][1]
        self.remove(ticket.ticket_id)
        return ticket

    def last(self) -> Ticket:
        """The ticket that would be served last; IndexError when empty."""
        return self._order[-1][1]

    def remove(self, ticket_id: str) -> Ticket:
        """KeyError when the id is not queued."""
        key = self._keys.pop(ticket_id)
        index = bisect.bisect_left(self._order, key, key=lambda entry: entry[0])
        return self._order.pop(index)[1]
