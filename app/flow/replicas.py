"""The engine replicas: who is there, and has a place (whose it is: route.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from app.flow.clock import EngineClock
from app.flow.config import FlowConfig, Limits
from app.flow.estimate import RunningMean
from app.flow.limit import AdaptiveLimit
from app.flow.pace import StepPace
from app.flow.prompts import shared_steps
from app.flow.ticket import ReplicaReport

# Longer than a request runs: a lease that has ended here is not named again after such a silence.
REPLICA_MEMORY_S = 3600.0
# A report may have been under way for so long when its engine ended; a later one is of an engine that lives.
LATE_REPORT_S = 10.0
# A start that is this late is not coming: tickets must not wait for it.
START_PATIENCE_S = 120.0
# No start is known more exactly than this.
MIN_START_S = 1.0
# A replica that calls can't reach is barred for this long, and twice as long each time that shows again.
FIRST_BAR_S = 1.0
MAX_BAR_S = 30.0
# Half of the memory is in the last 35 leases.
TOKENS_SMOOTHING = 0.02


class Replica:
    """One engine and what it was given."""

    __slots__ = (
        "bar_s",
        "barred_until_s",
        "clock",
        "free",
        "gone",
        "gone_s",
        "idle",
        "in_flight",
        "limit",
        "number",
        "places",
        "reached",
        "report",
        "running",
        "seen_s",
        "tokens",
        "usable",
    )

    def __init__(self, report: ReplicaReport, limit: AdaptiveLimit, clock: EngineClock, now_s: float) -> None:
        self.report = report
        self.limit = limit
        self.clock = clock
        self.seen_s = now_s
        self.in_flight: set[str] = set()
        self.barred_until_s = -math.inf
        self.bar_s = FIRST_BAR_S
        self.gone_s = -math.inf
        self.gone = False
        # Of its leases: answers that it gives at the same time, and prompt plus expected output in tokens.
        self.running = 0
        self.tokens = 0
        # As last looked at: fresh and not barred; it may get leases at all; its places; those of them that
        # are free; whether all are; its place among those that have one.
        self.reached = True
        self.usable = False
        self.places = 0
        self.free = 0
        self.idle = False
        self.number: int | None = None

    def fits(self, tokens: int, without: int = 0) -> bool:
        """So many tokens more, `without` so many of its requests. An engine that is then empty takes
        anything: what can never fit was refused on arrival."""
        limit = self.limit.tokens
        return not limit or len(self.in_flight) <= without or self.tokens + tokens <= limit


class ReplicaPool:
    """All known replicas; `open` holds those with a place that could be reached when last looked at."""

    def __init__(self, limits: Limits, config: FlowConfig) -> None:
        self._limits = limits
        self._config = config
        self.replicas: dict[str, Replica] = {}
        self.open: list[Replica] = []
        # Of those, how many run nothing.
        self.idle = 0
        # Capacity on its way: when each is expected to report for the first time.
        self.starting: dict[str, float] = {}
        self._free = 0
        # What a lease reserves for each of its answers.
        self._lease_tokens = RunningMean(0.0, TOKENS_SMOOTHING)
        # Uncached prompt tokens of leases that have no first token yet.
        self.prefill_tokens = 0
        # Replicas that could take a lease, and the sum of their places, at the last report or tick.
        self.ready = 0
        self.places = 0
        # When it was first asked who is there.
        self._born_s: float | None = None
        admission = config.admission
        self.pace = StepPace(
            admission.initial_step_s, 1.0 / admission.initial_prefill_tokens_per_s, admission.smoothing
        )

    @property
    def free(self) -> int:
        """Free places; where only tokens are short, one, for something small may fit."""
        return max(1, self._free) if self.open else 0

    @property
    def requests_per_replica(self) -> int:
        """Places of an engine that has yet to start."""
        return self._limits.requests_per_replica

    def usable(self, now_s: float) -> Iterator[Replica]:
        return (r for r in self.replicas.values() if self.is_usable(r, now_s))

    def is_usable(self, replica: Replica, now_s: float) -> bool:
        return not replica.gone and not replica.report.draining and self.fresh(replica, now_s)

    def asleep(self, now_s: float, without: str = "") -> bool:
        """True when no replica but that one can take a lease or is starting, and there was time to hear of
        one."""
        if self._born_s is None:
            self._born_s = now_s
        for replica in self.replicas.values():
            if self.is_usable(replica, now_s) and replica.report.replica_id != without:
                return False
        starting = any(id_ != without for id_ in self.starting)
        return not starting and not self.young(now_s)

    def young(self, now_s: float) -> bool:
        """There was no time yet to hear of every replica."""
        return self._born_s is None or now_s - self._born_s <= self._limits.replica_ttl_s

    def without_engine(self, now_s: float) -> bool:
        """Nobody may wait: it sleeps, and none is there that drains, which has a successor."""
        return self.asleep(now_s) and all(
            one.gone or not self.fresh(one, now_s) for one in self.replicas.values()
        )

    def fresh(self, replica: Replica, now_s: float) -> bool:
        return now_s - replica.seen_s <= self._limits.replica_ttl_s

    def reachable(self, replica: Replica, now_s: float) -> bool:
        return now_s >= replica.barred_until_s and self.fresh(replica, now_s)

    def count(self, now_s: float) -> None:
        """Look at all of them: time alone makes one silent."""
        for replica in self.replicas.values():
            self._look(replica, now_s)

    def _look(self, replica: Replica, now_s: float) -> None:
        replica.reached = self.reachable(replica, now_s)
        self._update(replica)
        usable = self.is_usable(replica, now_s)
        places = min(replica.limit.requests, replica.running + self._free_by_tokens(replica)) if usable else 0
        self.ready += usable - replica.usable
        self.places += places - replica.places
        replica.usable, replica.places = usable, places

    def report(self, report: ReplicaReport, now_s: float) -> tuple[Replica, bool]:
        """Register or refresh; also says whether it is new.

        Ids of replicas are never used again: a report of one that has just gone was under way and revives
        nothing. Later ones do: a gateway could not reach it, and others can.
        """
        replica = self.replicas.get(report.replica_id)
        new = replica is None
        if replica is None:
            step_tokens = self._limits.batched_tokens
            limit = AdaptiveLimit(self._config.limit, self._limits.requests_per_replica, step_tokens)
            share, follow = self._limits.prompt_step_tokens, self._config.route.follow_steps
            clock = EngineClock(self.pace, step_tokens, share, follow=follow)
            replica = self.replicas[report.replica_id] = Replica(report, limit, clock, now_s)
            self.starting.pop(report.replica_id, None)
        elif replica.gone and now_s - replica.gone_s > LATE_REPORT_S:
            # The leases that it had have ended here: what is left of them is not counted twice.
            replica.gone = False
        replica.report, replica.seen_s = report, now_s
        replica.limit.observe(report.metrics, replica.running, replica.tokens, now_s)
        if report.metrics is not None:
            replica.clock.count(report.metrics, now_s)
        self._look(replica, now_s)
        return replica, new

    def expect(self, replica_id: str, ready_s: float) -> None:
        if replica_id not in self.replicas:
            self.starting[replica_id] = ready_s

    def starts_s(self, now_s: float) -> list[float]:
        """Until each engine that is starting is expected, the first one first. Nobody knows whether one that
        is late comes at all: it is expected in as long again."""
        return sorted(max(MIN_START_S, abs(ready_s - now_s)) for ready_s in self.starting.values())

    def first_start_s(self, now_s: float) -> float:
        """Until the first engine that is starting is expected; zero where none is."""
        return min(self.starts_s(now_s), default=0.0)

    def starts(self, start_s: float, now_s: float) -> int:
        """Engines that are starting. One that is later than a start takes may have failed without a word."""
        return sum(now_s - ready_s <= start_s for ready_s in self.starting.values())

    def gone(self, replica_id: str, now_s: float) -> Replica | None:
        """The replica has ended; it stays known for a while, its leases are the caller's to end."""
        self.starting.pop(replica_id, None)
        replica = self.replicas.get(replica_id)
        if replica is not None:
            replica.gone, replica.gone_s = True, now_s
            self._look(replica, now_s)
        return replica

    def bar(self, replica_id: str, now_s: float) -> None:
        """No leases for a moment; several calls that fail together count once."""
        replica = self.replicas.get(replica_id)
        if replica is not None and now_s >= replica.barred_until_s:
            replica.barred_until_s = now_s + replica.bar_s
            replica.bar_s = min(2.0 * replica.bar_s, MAX_BAR_S)
            self._look(replica, now_s)

    def skip(self, span_s: float) -> None:
        """Nobody could be heard for so long: it does not count as silence."""
        # Where time went on, bars and starts may have ended.
        back_s = min(0.0, span_s)
        for replica in self.replicas.values():
            replica.seen_s += span_s
            replica.gone_s += span_s
            replica.barred_until_s += back_s
            replica.limit.set_back(back_s)
        for replica_id in self.starting:
            self.starting[replica_id] += back_s
        self.pace.set_back(back_s)
        if self._born_s is not None:
            self._born_s += span_s

    def forget(self, now_s: float) -> list[str]:
        """Replicas that are gone or silent for long, whose leases have ended, which are returned; starts that
        never came."""
        forgotten: list[str] = []
        for replica_id, replica in list(self.replicas.items()):
            if not replica.in_flight and now_s - replica.seen_s > REPLICA_MEMORY_S:
                replica.gone = True
                self._look(replica, now_s)
                del self.replicas[replica_id]
                forgotten.append(replica_id)
        for replica_id, ready_s in list(self.starting.items()):
            if now_s - ready_s > START_PATIENCE_S:
                del self.starting[replica_id]
        return forgotten

    def take(self, replica: Replica, ticket_id: str, answers: int, tokens: int) -> None:
        replica.in_flight.add(ticket_id)
        replica.running += answers
        replica.tokens += tokens
        self._lease_tokens.add(tokens / answers)
        self._update(replica)

    def release(self, replica: Replica, ticket_id: str, answers: int, tokens: int) -> None:
        replica.in_flight.discard(ticket_id)
        replica.running -= answers
        replica.tokens -= tokens
        self._update(replica)

    def engine_ttft_s(self, prompt_tokens: float) -> float:
        """Time to first token in an engine that works on the mean of what all have to compute."""
        return self.prefill_s(prompt_tokens, self.prefill_tokens / (self.ready or 1))

    def prefill_s(self, tokens: float, others: float = 0.0) -> float:
        """Time to compute a prompt of so many tokens beside so many of others."""
        count = shared_steps(tokens, others, self._limits.batched_tokens, self._limits.prompt_step_tokens)
        return self.pace.prefill_s(tokens + others, count, self.pace.running)

    def alone_s(self, tokens: float) -> float:
        """Time to compute a prompt that has an engine to itself; 0 while that is not known."""
        return self.prefill_s(tokens) if self.pace.learnt else 0.0

    def _free_by_tokens(self, replica: Replica) -> int:
        """Leases like the others that its cache has room for: it may be full long before its places are."""
        limit, each = replica.limit.tokens, self._lease_tokens.value
        if not limit or each < 1.0:
            return replica.limit.requests
        room = int((limit - replica.tokens) / each)
        # What is empty takes anything.
        return max(room, 0 if replica.in_flight else 1)

    def _update(self, replica: Replica) -> None:
        free = replica.limit.requests - replica.running
        if free < 0 or replica.gone or replica.report.draining or not replica.reached:
            free = 0
        if (replica.number is None) == (free > 0):
            self._list(replica)
        idle = free > 0 and not replica.in_flight
        if free and replica.limit.tokens:
            free = min(free, self._free_by_tokens(replica))
        self._free += free - replica.free
        self.idle += idle - replica.idle
        replica.free, replica.idle = free, idle

    def _list(self, replica: Replica) -> None:
        """Among those that have a place, or no more; in constant time, as one of them is drawn."""
        number, open_ = replica.number, self.open
        if number is None:
            replica.number = len(open_)
            open_.append(replica)
            return
        last = open_.pop()
        if last is not replica:
            open_[number] = last
            last.number = number
        replica.number = None
