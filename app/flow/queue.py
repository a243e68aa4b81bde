"""The one queue: classes by virtual arrival and minimum share, tenants by counter, tickets by deadline.

The order, from outside in
0. What has a place of its own: a promise that is due, or one that it had and lost. Not while its tenant is
   at its cap: then it waits with that tenant's others.
1. A class whose credit says that it got less than its minimum share; the one with the highest credit.
2. Else the class whose oldest ticket has the earliest virtual arrival: arrival minus the class's boost.
3. Within the class the tenant with the lowest virtual token counter.
4. Within the tenant the earliest deadline; equal deadlines in the order of submission.

Nothing starves. By 2, a class is overtaken only by arrivals within the difference of boosts; or while it is
held, because every engine has prompts that more urgent classes would wait for; or while it yields, because
one of these is refused for want of places. By 1, while a class waits it gets at least `min_share x dispatched
cost - 2 x the largest cost` all the same. By 3, a tenant's turn comes when the others' counters have passed
its own.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from app.flow.config import ClassPolicy, FairnessPolicy
from app.flow.fairness import FairOrder, TenantFlow
from app.flow.tenants import Account
from app.flow.ticket import Ticket

if TYPE_CHECKING:
    from app.flow.leases import Held

# A class that was refused this recently still wants its share, and this recently is short of places.
WANTED_S = 10.0
SHORT_S = 2.0
# Dead entries are dropped from the lists when they outnumber the live ones by this much.
MAX_DEAD_SHARE = 2
MIN_COMPACT = 64
# However far behind a tenant is, and however little a request costs, this part of what its class leaves to
# others is not touched.
UNTOUCHED_SHARE = 0.5


class Entry:
    """A ticket in the queue or on a replica: one object until its lease is taken back, and then another."""

    __slots__ = (
        "account",
        "budget_s",
        "expires_s",
        "flow",
        "needed",
        "number",
        "payer",
        "placed",
        "predicted_ttft_s",
        "queued",
        "rank",
        "rate_tokens",
        "raw_ttft_s",
        "revoked",
        "revokes",
        "ticket",
    )

    def __init__(
        self,
        ticket: Ticket,
        rank: int,
        account: Account,
        flow: TenantFlow,
        budget_s: float,
        expires_s: float,
    ) -> None:
        self.ticket = ticket
        # Index of the class, most urgent first.
        self.rank = rank
        self.account = account
        # Where it waits; who is charged. They differ for a ticket with a promise, or that had a place.
        self.flow = self.payer = flow
        # Time to the first token that it is promised.
        self.budget_s = budget_s
        # The last moment at which it may leave the queue for an engine.
        self.expires_s = expires_s
        self.number = 0
        self.queued = False
        # Time to the first token that was predicted on arrival, before and after correction.
        self.raw_ttft_s = self.predicted_ttft_s = 0.0
        # Taken of its tenant's tokens a minute.
        self.rate_tokens = 0
        # Free places that it needs beyond those that its class leaves to others: fewer, or less than none,
        # where its tenant is behind or it costs little. None: its class was not refusing as it came.
        self.needed: float | None = None
        # It had a place as it came: its prediction is of the engine's time alone.
        self.placed = False
        self.revokes = 0
        # The lease that was taken back, while its end may still cross with a first token.
        self.revoked: Held | None = None

    def set_back(self, span_s: float) -> None:
        """The clock was set, by less than nothing: it is as old as before, and has as long."""
        self.ticket = replace(self.ticket, arrived_s=self.ticket.arrived_s + span_s)
        self.expires_s += span_s

    def __lt__(self, other: Entry) -> bool:
        return (self.ticket.arrived_s, self.number) < (other.ticket.arrived_s, other.number)


class Arrivals:
    """The entries of a class by first arrival; entries that left are skipped when they are reached."""

    __slots__ = ("_entries", "_first", "live")

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._first = 0
        self.live = 0

    def add(self, entry: Entry) -> None:
        self.live += 1
        entries = self._entries
        if not entries or entries[-1].ticket.arrived_s <= entry.ticket.arrived_s:
            entries.append(entry)
        else:
            insort(entries, entry, lo=self._first)
        if len(entries) > MAX_DEAD_SHARE * self.live + MIN_COMPACT:
            self._entries = [one for one in entries[self._first :] if one.queued]
            self._first = 0

    def oldest(self) -> Entry:
        """There must be a live entry."""
        while not self._entries[self._first].queued:
            self._first += 1
        return self._entries[self._first]

    def newest(self) -> Entry:
        """There must be a live entry."""
        while not self._entries[-1].queued:
            self._entries.pop()
        return self._entries[-1]


class ClassQueue:
    """The tickets of one class."""

    __slots__ = (
        "arrivals",
        "credit",
        "denied_s",
        "order",
        "policy",
        "prefill_room_s",
        "prompt_tokens",
        "rank",
        "reserve",
        "size",
        "yields",
    )

    def __init__(self, policy: ClassPolicy, rank: int, fairness: FairnessPolicy) -> None:
        self.policy = policy
        self.rank = rank
        self.size = 0
        self.prompt_tokens = 0
        # Cost that the class is owed under its minimum share.
        self.credit = 0.0
        # When somebody was last refused for want of a place.
        self.denied_s = -math.inf
        self.arrivals = Arrivals()
        self.order = FairOrder(fair=fairness.enabled, credit=fairness.return_credit)
        # As of the last tick: free places that the class leaves to more urgent ones; whether those who wait
        # go on waiting because one of these is short of places; and how long the prompts of an engine may
        # take that gets one of its requests.
        self.reserve = 0.0
        self.yields = False
        self.prefill_room_s = math.inf

    def wants(self, now_s: float) -> bool:
        """Somebody was refused lately: the class wants its share as if it waited."""
        return now_s - self.denied_s < WANTED_S

    def short(self, now_s: float) -> bool:
        """It would take any place that it may have: newcomers are refused that do not wait for one."""
        return self.policy.reserve_roots > 0.0 and now_s - self.denied_s < SHORT_S

    def has_room(self, free: int) -> bool:
        """One of the free places is not left to others; a class that is owed its share leaves none."""
        return self.credit > 0 or free > self.reserve

    def may_go(self, free: int) -> bool:
        """Whoever waits may have one of the free places; a class that is owed its share goes before all."""
        return self.credit > 0 or (free > self.reserve and not self.yields)

    def needs_fewer(self, free: int) -> bool:
        """The next of those that wait may have one of the free places though they are left to others."""
        flow = None if self.yields else self.order.next()
        needed = None if flow is None else flow.head().needed
        return needed is not None and self.suffices(free, needed)

    def suffices(self, free: int, needed: float) -> bool:
        """So many free places are enough for a request that needs so many beyond those left to others."""
        return free - self.reserve > needed and free > UNTOUCHED_SHARE * self.reserve

    def claims(self, needed: float | None) -> bool:
        """A request that needs so few more may have any place but those that nobody touches."""
        return needed is not None and needed <= (UNTOUCHED_SHARE - 1.0) * self.reserve

    def missing(self, free: int) -> float:
        """Places that have to fall free until there is one that is not left to others, less that one."""
        return 0.0 if self.credit > 0 else max(0.0, self.reserve - free)

    def room_s(self) -> float:
        """How long an engine's prompts may take; a class that is owed its share waits for nobody's."""
        return math.inf if self.credit > 0 else self.prefill_room_s

    def urgency(self) -> tuple[float, float]:
        """Lower is first; the class must not be empty."""
        if self.order.lane.size and self.order.lane_ready():
            return (-1.0, self.order.lane.head().ticket.arrived_s)
        if self.credit > 0:
            return (0.0, -self.credit)
        return (1.0, self.arrivals.oldest().ticket.arrived_s - self.policy.boost_s)


class FlowQueue:
    """All classes. Push, remove and next take logarithmic time in tickets and tenants, amortised."""

    def __init__(self, classes: Sequence[ClassPolicy], fairness: FairnessPolicy) -> None:
        self.classes = [ClassQueue(policy, rank, fairness) for rank, policy in enumerate(classes)]
        # Ranks of classes that wait for engines to compute the prompts that they have, at the last dispatch.
        self.held: set[int] = set()
        # Rank from which on newcomers wait behind one whose tokens fit on no engine, at the last dispatch.
        self.blocked: float = math.inf
        self._entries: dict[str, Entry] = {}
        self._expiry: list[tuple[float, int, Entry]] = []
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, ticket_id: str) -> bool:
        return ticket_id in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def get(self, ticket_id: str) -> Entry | None:
        return self._entries.get(ticket_id)

    def push(self, entry: Entry) -> None:
        """Raises ValueError for an id that is queued already."""
        ticket = entry.ticket
        if ticket.ticket_id in self._entries:
            raise ValueError(f"ticket_id: {ticket.ticket_id} is queued already")
        entry.number = next(self._numbers)
        entry.queued = True
        self._entries[ticket.ticket_id] = entry
        key = (entry.expires_s, entry.number, entry)
        heapq.heappush(self._expiry, key)
        self._join(self.classes[entry.rank], entry, key)
        entry.account.queued += 1
        self._compact()

    def remove(self, entry: Entry) -> None:
        """The entry must be queued; its places in the heaps are dropped when they come up."""
        del self._entries[entry.ticket.ticket_id]
        entry.queued = False
        entry.account.queued -= 1
        queue = self.classes[entry.rank]
        queue.size -= 1
        queue.prompt_tokens -= entry.ticket.prompt_tokens
        queue.arrivals.live -= 1
        entry.flow.size -= 1
        if entry.flow.size == 0:
            queue.order.leave(entry.flow)

    def next(self, free: int, below: int, aside: int | None = None) -> Entry | None:
        """Who takes one of the free places, at least one, of the classes before `below`; None when nobody
        waits who may. The class `aside` waits for an engine of its own."""
        waiting = [
            one
            for one in self.classes
            if one.size
            and one.rank < below
            and one.rank != aside
            and (
                (one.order.lane.size and one.order.lane_ready())
                or one.may_go(free)
                or (one.needs_fewer(free) and not self._urgent_waits(one.rank))
            )
        ]
        if self.held:
            # Less urgent ones have no more room, and should not pass.
            most = min(self.held)
            waiting = [one for one in waiting if one.rank < most or one.credit > 0]
        while waiting:
            queue = waiting[0] if len(waiting) == 1 else min(waiting, key=ClassQueue.urgency)
            flow = queue.order.next()
            if flow is not None:
                return flow.head()
            # Held back by its tenants' caps: that is not owed to it.
            queue.credit = min(0.0, queue.credit)
            waiting.remove(queue)
        return None

    def _urgent_waits(self, rank: int) -> bool:
        """Somebody waits for places, and not for its tenant's cap, of the more urgent classes."""
        return any(one.size and one.order.next() is not None for one in self.classes[:rank])

    def served(self, rank: int, cost: float, now_s: float) -> list[float]:
        """A ticket of this class went to an engine: the others' credit grows by their share of its cost.
        Returns by how much each credit grew."""
        grown: list[float] = []
        for queue in self.classes:
            before = queue.credit
            if queue.rank == rank:
                credit = before - cost * (1.0 - queue.policy.min_share)
                queue.credit = credit if credit > -cost else -cost
            else:
                # What nobody wants lapses; what it had too much does not.
                credit = before + cost * queue.policy.min_share
                wanted = queue.size or queue.wants(now_s)
                queue.credit = credit if wanted or credit < 0.0 else 0.0
            grown.append(queue.credit - before)
        return grown

    def taken_back(self, grown: list[float]) -> None:
        """It has lost its engine to another, which is no service: so much of each credit did not grow."""
        for queue, credit in zip(self.classes, grown, strict=True):
            queue.credit -= credit

    def set_back(self, span_s: float) -> None:
        """The clock was set, by less than nothing: nobody wants a share for longer, or waits for longer."""
        for entry in self._entries.values():
            entry.set_back(span_s)
        self._expiry = _shifted(self._expiry, span_s)
        for queue in self.classes:
            queue.denied_s += span_s
            for flow in (queue.order.lane, *queue.order.flows.values()):
                flow.heap = _shifted(flow.heap, span_s)

    def expired(self, now_s: float) -> list[Entry]:
        """Entries that may not go to an engine any more, still in the queue."""
        late: list[Entry] = []
        while self._expiry and self._expiry[0][0] < now_s:
            entry = heapq.heappop(self._expiry)[2]
            if entry.queued:
                late.append(entry)
        return late

    def any_expired(self, now_s: float) -> bool:
        """May be wrong in the safe direction: an entry that left already counts until it is dropped."""
        return bool(self._expiry) and self._expiry[0][0] < now_s

    def least_urgent(self, above: int) -> Entry | None:
        """The newest entry of the least urgent class that waits, if that class ranks after `above`."""
        for queue in reversed(self.classes[above + 1 :]):
            if queue.size:
                return queue.arrivals.newest()
        return None

    def _join(self, queue: ClassQueue, entry: Entry, key: tuple[float, int, Entry]) -> None:
        flow = entry.flow
        heapq.heappush(flow.heap, key)
        flow.size += 1
        if flow.size == 1:
            queue.order.join(flow)
        elif len(flow.heap) > MAX_DEAD_SHARE * flow.size + MIN_COMPACT:
            flow.heap = [one for one in flow.heap if one[2].queued]
            heapq.heapify(flow.heap)
        queue.size += 1
        queue.prompt_tokens += entry.ticket.prompt_tokens
        queue.arrivals.add(entry)

    def _compact(self) -> None:
        if len(self._expiry) > MAX_DEAD_SHARE * len(self._entries) + MIN_COMPACT:
            self._expiry = [one for one in self._expiry if one[2].queued]
            heapq.heapify(self._expiry)


def _shifted(heap: list[tuple[float, int, Entry]], span_s: float) -> list[tuple[float, int, Entry]]:
    """All by the same: it stays a heap."""
    return [(expires_s + span_s, number, entry) for expires_s, number, entry in heap]
