"""Is there a place right now, and does waiting help?

A queue helps a burst through; one that only stands adds its wait to everybody and completes nothing more. It
stands while there is no lull, no time in which less arrives than can leave. The longer it has stood, the less
of its budget a newcomer may wait: a class with a long budget stays patient for longer. At a lasting overload
nobody waits: a place at once, or a refusal at once. The most urgent classes, which leave no place to others,
may always wait.

Then nobody waits whom the fair order could choose, so the tenant's counter decides on the spot: a tenant at
the level of those that were refused needs one place more than its class leaves to others, and each typical
request by which it is ahead of (behind) that level takes one place more (less).

A class leaves places free for more urgent ones. Until a queue stands it need not leave what falls free in
time for them: else a load just below the capacity would wait beside empty engines. Who waits would take each
place that falls free before newcomers of a more urgent class that do not wait; so it yields while any of
these are refused, as long as it can wait: a burst may end before.

Where not all can be served, more are if the short go first (Smith's rule: least work for each promise). A
request dearer than its own tenant's mean needs more places, a cheaper one fewer: no tenant gains a share by
it, and a tenant of long requests alone is served as ever. A dear one that is refused may still be given a
time to return.

As long as the overload may be a burst, those who by all this need fewest places may wait for the next that
falls free, of those left to others too: it finds one of them, where else it would stay empty until somebody
comes by chance.
"""

from __future__ import annotations

import math
from itertools import accumulate

from app.flow.config import AdmissionPolicy, FlowConfig
from app.flow.estimate import DecayedRate
from app.flow.predictor import Predictor
from app.flow.queue import ClassQueue, Entry, FlowQueue
from app.flow.replicas import ReplicaPool
from app.flow.route import Choice, Router

# Of a budget: the engine needs the rest, and a longer wait is hard to predict.
WAIT_SHARE = 0.1
# Of a budget: for so long one may wait in a burst for the next place. Longer keeps a few promises more, and
# more wait in vain (simulated).
CLAIM_SHARE = 0.6
# What has stood for so many times as long as anybody would wait is remembered, and no more: a lull of minutes
# forgets hours. With one a bursty overload lets everybody wait in each lull (simulated: Jain 0.92, not 0.97).
REMEMBERED = 4.0
# Ticks come several times a second. In a longer pause nobody has looked: no queue is known to have stood.
MAX_PASSED_S = 1.0


class StandingQueue:
    """For how long a queue has stood, in seconds: grows between lulls to `most_s` at most, and is
    forgotten in them."""

    def __init__(self, policy: AdmissionPolicy, predictor: Predictor, most_s: float) -> None:
        self._policy = policy
        self._most_s = most_s
        self._predictor = predictor
        self._arrivals = DecayedRate(policy.lull_s)
        self._at_s: float | None = None
        self.value_s = 0.0

    def arrived(self, now_s: float) -> None:
        self._arrivals.add(1.0, now_s)

    def update(self, now_s: float, served: bool = True) -> None:
        """`served`: there is an engine; for one that starts a queue has to wait."""
        passed_s = 0.0 if self._at_s is None else min(max(0.0, now_s - self._at_s), MAX_PASSED_S)
        self._at_s = now_s
        lull = self._arrivals.per_s(now_s) < self._predictor.total_rate_per_s()
        if lull or not self._policy.impatient:
            self.value_s = max(0.0, self.value_s - passed_s * self._policy.lull_weight)
        elif served:
            self.value_s = min(self._most_s, self.value_s + passed_s)


class Doors:
    """Who may come in: at once, or to wait."""

    def __init__(
        self, config: FlowConfig, queue: FlowQueue, pool: ReplicaPool, router: Router, predictor: Predictor
    ) -> None:
        self._queue = queue
        self._pool = pool
        self._router = router
        self._weight = config.admission.standing_weight
        patience_s = max(one.ttft_budget_s for one in config.classes)
        most_s = REMEMBERED * patience_s / self._weight if self._weight > 0.0 else math.inf
        self.standing = StandingQueue(config.admission, predictor, most_s)
        self._thrift_roots = config.admission.thrift_roots
        self._burst_s = config.admission.burst_s
        self._last_share = 1.0 - config.admission.yield_share
        self._predictor = predictor
        # By rank: the shortest promise of the more urgent classes.
        self._urgent_budget_s = [math.inf, *accumulate((one.ttft_budget_s for one in config.classes), min)]
        self._prefill_share = config.route.prefill_share

    def keep_free(self, now_s: float) -> None:
        """What each class leaves to more urgent ones until the next tick: places, and engines' time. Some of
        these do not wait for a place, so those that can wait until none of them is short of one."""
        short = False
        for queue in self._queue.classes:
            urgent_places = self._predictor.urgent_places(queue.rank, now_s)
            room_s = self._prefill_share * self._urgent_budget_s[queue.rank] if urgent_places else math.inf
            queue.prefill_room_s = room_s
            reserve = queue.policy.reserve(self._pool.places, urgent_places)
            queue.reserve = max(0.0, reserve - self._free_soon(queue.rank))
            queue.yields = short and self._can_wait(queue, now_s)
            short = short or queue.short(now_s)

    def _can_wait(self, queue: ClassQueue, now_s: float) -> bool:
        """The oldest of those that wait has more before it than the last part of its wait."""
        if not queue.size:
            return True
        oldest = queue.arrivals.oldest()
        return oldest.expires_s - now_s > self._last_share * oldest.budget_s

    def _free_soon(self, rank: int) -> float:
        """Places that fall free in time for more urgent requests, while nothing stands in their way."""
        wait_s = WAIT_SHARE * self._urgent_budget_s[rank] - self.standing.value_s
        return max(0.0, wait_s) * self._predictor.total_rate_per_s()

    def arrived(self, entry: Entry, now_s: float) -> bool:
        """Takes note of a newcomer; whether it has a place without waiting. Who waits for his tenant's cap
        stands in nobody's way."""
        self.standing.arrived(now_s)
        free, queue = self._pool.free, self._queue.classes[entry.rank]
        if entry.account.at_cap:
            return False
        behind = free <= 0 or (queue.size > 0 and queue.order.next() is not None)
        if not queue.wants(now_s):
            if behind:
                return False
            queue.order.undisputed(entry.payer)
            return queue.has_room(free)
        ahead = queue.order.ahead(entry.flow)
        if not behind and queue.credit > 0 and ahead <= queue.credit:
            return True
        entry.needed = needed = self._needed(entry, ahead)
        return not behind and queue.suffices(free, needed)

    def engine(self, entry: Entry, within_s: float, now_s: float) -> Choice | None:
        """The engine for a newcomer that has a place; None where it waits for prompts or for room in a cache,
        or behind others that do."""
        first = min(self._queue.blocked, min(self._queue.held, default=math.inf))
        if first <= entry.rank:
            return None
        tokens = entry.ticket.prompt_tokens + self._predictor.expected_output(entry)
        room_s = self._queue.classes[entry.rank].room_s()
        return self._router.find(entry.ticket, tokens, room_s, within_s, now_s)

    def plenty(self) -> bool:
        """Whoever comes finds a place."""
        return self._pool.free > max(queue.reserve for queue in self._queue.classes)

    def wait_s(self, entry: Entry, budget_s: float) -> float:
        """How long a newcomer without a place may wait."""
        queue, standing_s = self._queue.classes[entry.rank], self.standing.value_s
        if not queue.policy.reserve_roots:
            return budget_s
        patience_s = max(0.0, budget_s - self._weight * standing_s)
        if standing_s >= self._burst_s or not queue.claims(entry.needed):
            return patience_s
        return max(patience_s, CLAIM_SHARE * budget_s)

    def denied(self, entry: Entry, now_s: float) -> None:
        """There was no place for this newcomer."""
        queue = self._queue.classes[entry.rank]
        queue.order.denied(entry.payer)
        queue.denied_s = now_s

    def _needed(self, entry: Entry, ahead: float) -> float:
        """The places more that it needs at its turn, when what waits of its tenant has gone: by that tenant's
        counter, and by its own cost, which is learnt."""
        cost = self._predictor.expected_cost(entry.ticket, entry.account)
        typical_cost = entry.payer.typical_cost
        typical_cost.add(cost)
        dearness = cost / max(1.0, typical_cost.value) - 1.0
        thrift = self._thrift_roots * math.sqrt(self._pool.places)
        gone = entry.payer.size / entry.payer.weight
        return ahead / self._predictor.cost(entry.rank) + gone + thrift * dearness
