"""The engine replicas: who may get a request, and who should."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from app.flow.clock import EngineClock
from app.flow.config import FlowConfig, Limits
from app.flow.estimate import RunningMean
from app.flow.limit import AdaptiveLimit
from app.flow.pace import StepPace
from app.flow.prefix import PrefixIndex
from app.flow.prompts import shared_steps
from app.flow.ticket import ReplicaReport, Ticket

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
# So many replicas are all looked at: a score costs a microsecond.
SMALL_FLEET = 4
# Of the time that is left for a first token: a prediction can be wrong by as much, and whoever would be late
# is refused, so only the soonest engine will do.
HURRY_SHARE = 0.5


class Replica:
    """One engine and what it was given."""

    __slots__ = (
        "bar_s",
        "barred_until_s",
        "clock",
        "free",
        "gone",
        "gone_s",
        "in_flight",
        "limit",
        "reached",
        "report",
        "running",
        "seen_s",
        "tokens",
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
        # Fresh and not barred, as last looked at; and its free places as last counted.
        self.reached = True
        self.free = 0

    def fits(self, tokens: int, without: int = 0) -> bool:
        """So many tokens more, `without` so many of its requests. An engine that is then empty takes
        anything: what can never fit was refused on arrival."""
        limit = self.limit.tokens
        return not limit or len(self.in_flight) <= without or self.tokens + tokens <= limit


class Choice(NamedTuple):
    """A replica for a ticket, the prompt tokens it likely has cached, and the time to first token there.

    The score adds the delay to prompts that would share its step, and takes off for a warm cache.
    """

    replica: Replica
    cached: int
    ttft_s: float
    score_s: float


class ReplicaPool:
    """All known replicas; `open` holds those with a place that could be reached when last looked at."""

    def __init__(self, limits: Limits, config: FlowConfig, uniform: Callable[[], float]) -> None:
        self._limits = limits
        self._config = config
        self._uniform = uniform
        self.replicas: dict[str, Replica] = {}
        self.open: dict[str, Replica] = {}
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
        # The one that gets nothing, at the last dispatch: it empties for a ticket whose tokens fit nowhere.
        self.kept: Replica | None = None
        # When it was first asked who is there.
        self._born_s: float | None = None
        self._prefix = PrefixIndex(config.route.max_blocks_per_replica, config.route.max_blocks)
        self._sessions: OrderedDict[str, str] = OrderedDict()
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
        for replica in self.replicas.values():
            if replica.reached != self.reachable(replica, now_s):
                replica.reached = not replica.reached
                self._update(replica)
        usable = list(self.usable(now_s))
        self.ready = len(usable)
        self.places = sum(min(one.limit.requests, one.running + self._free_by_tokens(one)) for one in usable)

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
        self._update(replica)
        self.count(now_s)
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
            self._update(replica)
            self._prefix.drop(replica_id)
            self.count(now_s)
        return replica

    def bar(self, replica_id: str, now_s: float) -> None:
        """No leases for a moment; several calls that fail together count once."""
        replica = self.replicas.get(replica_id)
        if replica is not None and now_s >= replica.barred_until_s:
            replica.barred_until_s = now_s + replica.bar_s
            replica.bar_s = min(2.0 * replica.bar_s, MAX_BAR_S)
            self.count(now_s)

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

    def forget(self, now_s: float) -> None:
        """Replicas that are gone or silent for long, whose leases have ended; starts that never came."""
        for replica_id, replica in list(self.replicas.items()):
            if not replica.in_flight and now_s - replica.seen_s > REPLICA_MEMORY_S:
                replica.gone = True
                self._update(replica)
                del self.replicas[replica_id]
                self._prefix.drop(replica_id)
        for replica_id, ready_s in list(self.starting.items()):
            if now_s - ready_s > START_PATIENCE_S:
                del self.starting[replica_id]

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

    def remember(self, replica: Replica, ticket: Ticket) -> None:
        """The replica now computes this prompt and serves this session."""
        replica.limit.granted(ticket.prompt_tokens)
        replica_id = replica.report.replica_id
        if ticket.prefix_blocks:
            self._prefix.add(replica_id, ticket.prefix_blocks)
        if ticket.session_id:
            self._sessions[ticket.session_id] = replica_id
            self._sessions.move_to_end(ticket.session_id)
            if len(self._sessions) > self._config.route.max_sessions:
                self._sessions.popitem(last=False)

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

    def cached(self, ticket: Ticket) -> int:
        """Prompt tokens that some replica likely has cached, the most of them."""
        return max(0, max(self._known(ticket).values(), default=0)) if ticket.prefix_blocks else 0

    def choice(self, replica: Replica, ticket: Ticket, now_s: float) -> Choice:
        """This replica, as if it had nothing of the ticket cached."""
        return self._choice(replica, ticket, {}, now_s)

    def fitting(self, tokens: int, now_s: float) -> list[Replica]:
        """The fresh replicas that have a place, and room for a lease that reserves `tokens`."""
        kept = self.kept
        return [
            one
            for one in self.open.values()
            if one.fits(tokens) and one is not kept and self.reachable(one, now_s)
        ]

    def keep_roomiest(self, now_s: float) -> None:
        """The one with the most tokens free is kept."""
        open_ = [one for one in self.open.values() if self.reachable(one, now_s)]
        self.kept = max(open_, key=lambda one: one.limit.tokens - one.tokens, default=None)

    def with_room(self, replicas: list[Replica], tokens: int, room_s: float, now_s: float) -> list[Replica]:
        """Those whose prompts, with one of so many tokens, delay who comes next by at most `room_s`."""
        if room_s == math.inf:
            return replicas
        return [one for one in replicas if one.clock.delay_s(tokens, one.running, now_s) <= room_s]

    def choose(self, replicas: list[Replica], ticket: Ticket, within_s: float, now_s: float) -> Choice:
        """One of these for a ticket, if possible one with the first token `within_s`. There must be one.

        The candidates are all of a small fleet; of a large one two at random (Mitzenmacher, 2001) and the
        replicas that know the prompt's beginning or the session. The best score wins, ties go to the least
        loaded. Where that may be too late, the soonest of all does.
        """
        known = self._known(ticket) if ticket.prefix_blocks or ticket.session_id else {}
        if len(replicas) == 1:
            return self._choice(replicas[0], ticket, known, now_s)
        choices = [self._choice(one, ticket, known, now_s) for one in self._candidates(replicas, known)]
        best = min(choices, key=lambda one: (one.score_s, one.replica.running, one.replica.report.replica_id))
        if best.ttft_s <= HURRY_SHARE * within_s:
            return best
        if len(choices) < len(replicas):
            choices = [self._choice(one, ticket, known, now_s) for one in replicas]
        return min(choices, key=lambda one: (one.ttft_s, one.replica.report.replica_id))

    def _known(self, ticket: Ticket) -> dict[str, int]:
        """Replicas that know the ticket: prompt tokens likely cached; -1 marks the session's."""
        if not self._config.route.affinity:
            return {}
        per_block = self._config.route.tokens_per_block
        lengths = self._prefix.match(ticket.prefix_blocks)
        known = {id_: min(n * per_block, ticket.prompt_tokens) for id_, n in lengths.items()}
        session = self._sessions.get(ticket.session_id)
        if session is not None:
            known.setdefault(session, -1)
        return known

    def _candidates(self, fitting: list[Replica], known: dict[str, int]) -> list[Replica]:
        if len(fitting) <= SMALL_FLEET:
            return fitting
        candidates = [r for r in fitting if r.report.replica_id in known] if known else []
        candidates.append(self._any(fitting))
        candidates.append(self._any(fitting))
        return candidates

    def _any(self, replicas: list[Replica]) -> Replica:
        return replicas[min(int(self._uniform() * len(replicas)), len(replicas) - 1)]

    def _choice(self, replica: Replica, ticket: Ticket, known: dict[str, int], now_s: float) -> Choice:
        cached = max(0, known.get(replica.report.replica_id, 0))
        tokens = ticket.prompt_tokens - cached
        ttft_s = replica.clock.ttft_s(tokens, replica.running, now_s)
        score_s = ttft_s + self.pace.token_s * tokens if replica.clock.waiting else ttft_s
        if replica.report.replica_id in known:
            score_s -= self._config.route.affinity_bonus_s
        return Choice(replica, cached, ttft_s, score_s)

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
        if free:
            self.open[replica.report.replica_id] = replica
            if replica.limit.tokens:
                free = min(free, self._free_by_tokens(replica))
        else:
            self.open.pop(replica.report.replica_id, None)
        self._free += free - replica.free
        replica.free = free
