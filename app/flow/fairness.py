"""Virtual token counter: which tenant of a class is next (Sheng et al., OSDI 2024).

A tenant's counter grows by the cost of what is dispatched for it, divided by its weight; the lowest
counter among those that wait is next. A charge is an expectation: the counter is corrected, up or down,
as tokens come. A tenant that returns is lifted to the level of those that wait, so idling saves nothing.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

from app.flow.estimate import RunningMean
from app.flow.tenants import Account

if TYPE_CHECKING:
    from app.flow.queue import Entry

# A heap is rebuilt when this many of its entries for each live one are dead.
MAX_STALE = 3
# The level is of about the last twenty refusals: it must follow counters that rise with each request.
LEVEL_SMOOTHING = 0.05
# Half of the memory is in a tenant's last 35 requests.
COST_SMOOTHING = 0.02
MIN_COMPACT = 64


class TenantFlow:
    """The tickets of one tenant in one class, earliest deadline first."""

    __slots__ = ("account", "counter", "heap", "key", "size", "typical_cost", "weight")

    def __init__(self, account: Account | None, weight: float) -> None:
        # None: the flow holds tickets of several tenants, so no tenant's cap holds it back.
        self.account = account
        self.weight = weight
        self.counter = 0.0
        # Of what comes while places are short; not of what is served, which is cheaper.
        self.typical_cost = RunningMean(0.0, COST_SMOOTHING)
        # Counter under which the flow stands in the order; None: it does not.
        self.key: float | None = None
        self.heap: list[tuple[float, int, Entry]] = []
        self.size = 0

    @property
    def runnable(self) -> int:
        """Tickets that would run were there places; the others wait for requests of their tenant to end."""
        account = self.account
        if account is None:
            return self.size
        return min(self.size, max(0, account.policy.max_running - account.running))

    def head(self) -> Entry:
        """The live entry with the earliest deadline; the flow must not be empty."""
        heap = self.heap
        while not heap[0][2].queued:
            heapq.heappop(heap)
        return heap[0][2]


class FairOrder:
    """The flows of one class by counter. Corrections are lazy: a rise is repaired at the top of the heap."""

    def __init__(self, *, fair: bool, credit: float = 0.0) -> None:
        self._fair = fair
        self._credit = credit
        self.flows: dict[str, TenantFlow] = {}
        # Tickets with a place of their own: always first, and paid for by their tenants' own flows.
        self.lane = TenantFlow(None, 1.0)
        self._heap: list[tuple[float, int, TenantFlow]] = []
        self._pushes = itertools.count()
        self.waiting = 0
        # The highest counter that was ever lowest: where a returning tenant starts.
        self.floor = 0.0
        # Mean counter of those that were refused for want of a place: the level of the tenants in want.
        self.level = RunningMean(0.0, LEVEL_SMOOTHING)

    def flow(self, account: Account) -> TenantFlow:
        name = account.name if self._fair else ""
        flow = self.flows.get(name)
        if flow is None:
            flow = TenantFlow(account, account.policy.weight) if self._fair else TenantFlow(None, 1.0)
            self.flows[name] = flow
        return flow

    def forget(self, name: str) -> None:
        self.flows.pop(name, None)

    def join(self, flow: TenantFlow) -> None:
        """The flow has its first ticket."""
        if flow is self.lane:
            return
        self.waiting += 1
        flow.counter = self._lifted(flow)
        self._list(flow)

    def ahead(self, flow: TenantFlow) -> float:
        """Cost by which a tenant is ahead of those that were refused; negative when it is behind."""
        return self._lifted(flow) - self.level.value

    def undisputed(self, flow: TenantFlow) -> None:
        """There are places for everybody: what this tenant takes now is not held against it later."""
        if not self.waiting:
            self.floor = max(self.floor, flow.counter)

    def denied(self, flow: TenantFlow) -> None:
        """No place for this tenant."""
        self.level.add(self._lifted(flow))
        self.floor = max(self.floor, self.level.value)

    def _lifted(self, flow: TenantFlow) -> float:
        """A tenant that comes back starts at the floor, less its credit."""
        return max(flow.counter, self.floor - self._credit / flow.weight)

    def leave(self, flow: TenantFlow) -> None:
        """The flow's last ticket is gone."""
        flow.heap.clear()
        if flow is not self.lane:
            self.waiting -= 1
            flow.key = None

    def charge(self, flow: TenantFlow, cost: float) -> None:
        """Add a cost, or take back what was charged too much (negative)."""
        flow.counter += cost / flow.weight
        if cost < 0 and flow.key is not None:
            self._list(flow)

    def unpark(self, flow: TenantFlow) -> None:
        if flow.size and flow.key is None:
            self._list(flow)

    @property
    def runnable(self) -> int:
        """Tickets that would run were there places."""
        return self.lane.size + sum(flow.runnable for flow in self.flows.values())

    def lane_ready(self) -> bool:
        """Whether one of those with a place of their own may run: the first one then. Those before it, whose
        tenants have come to their caps meanwhile, go back to their tenants' others."""
        lane = self.lane
        while lane.size:
            entry = lane.head()
            if not entry.account.at_cap:
                return True
            self._leave_lane(entry)
        return False

    def next(self) -> TenantFlow | None:
        """The lane of kept places, else the lowest counter among the flows whose tenant may run one more."""
        if self.lane.size and self.lane_ready():
            return self.lane
        heap = self._heap
        while heap:
            key, _, flow = heap[0]
            if flow.key != key:
                heapq.heappop(heap)
            elif flow.account is not None and flow.account.at_cap:
                heapq.heappop(heap)
                flow.key = None
                flow.account.parked[self] = flow
            elif flow.counter > key:
                flow.key = flow.counter
                heapq.heapreplace(heap, (flow.counter, next(self._pushes), flow))
            else:
                if key > self.floor:
                    self.floor = key
                return flow
        return None

    def _leave_lane(self, entry: Entry) -> None:
        """The head of the lane goes back to the flow that pays for it."""
        lane, payer = self.lane, entry.payer
        heapq.heappush(payer.heap, heapq.heappop(lane.heap))
        entry.flow = payer
        lane.size -= 1
        payer.size += 1
        if payer.size == 1:
            self.join(payer)

    def _list(self, flow: TenantFlow) -> None:
        flow.key = flow.counter
        heapq.heappush(self._heap, (flow.counter, next(self._pushes), flow))
        if len(self._heap) > MAX_STALE * self.waiting + MIN_COMPACT:
            self._rebuild()

    def _rebuild(self) -> None:
        """Of those that stand in it: of the tenants that are known most have nothing here."""
        listed = {flow: number for key, number, flow in self._heap if flow.key == key}
        for flow in listed:
            flow.key = flow.counter
        self._heap = [(flow.counter, number, flow) for flow, number in listed.items()]
        heapq.heapify(self._heap)
