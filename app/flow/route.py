"""Which replica a request goes to: that knows its prompt or session, and is soon done with what it has."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from app.flow.config import FlowConfig
from app.flow.prefix import PrefixIndex
from app.flow.replicas import Replica, ReplicaPool
from app.flow.ticket import Ticket

# So many replicas are all looked at: a score costs a microsecond.
SMALL_FLEET = 4
# Of a large one so many drawn at random (two are nearly as good as all: Mitzenmacher, 2001; some can't take a
# request), and so many that know it, of so many that are asked.
DRAWN = 4
MAX_KNOWING = 4
MAX_ASKED = 32
# Of the time that is left for a first token: a prediction can be wrong by as much, and whoever would be late
# is refused, so only the soonest engine will do.
HURRY_SHARE = 0.5


class Choice(NamedTuple):
    """A replica for a ticket, the prompt tokens it likely has cached, and the time to first token there.

    The score adds the delay to prompts that would share its step, and takes off for a warm cache.
    """

    replica: Replica
    cached: int
    ttft_s: float
    score_s: float


class Router:
    """Chooses among those that have a place; remembers who knows what."""

    def __init__(self, config: FlowConfig, pool: ReplicaPool, uniform: Callable[[], float]) -> None:
        self._config = config
        self._pool = pool
        self._uniform = uniform
        # The one that gets nothing, at the last dispatch: it empties for a ticket whose tokens fit nowhere.
        self.kept: Replica | None = None
        self._prefix = PrefixIndex(config.route.max_blocks_per_replica, config.route.max_blocks)
        self._sessions: OrderedDict[str, str] = OrderedDict()

    def remember(self, replica: Replica, ticket: Ticket) -> None:
        """The replica now computes this prompt and serves this session."""
        replica_id = replica.report.replica_id
        if ticket.prefix_blocks:
            self._prefix.add(replica_id, ticket.prefix_blocks)
        if ticket.session_id:
            self._sessions[ticket.session_id] = replica_id
            self._sessions.move_to_end(ticket.session_id)
            if len(self._sessions) > self._config.route.max_sessions:
                self._sessions.popitem(last=False)

    def forget(self, replica_id: str) -> None:
        """It has ended, and its cache with it."""
        self._prefix.drop(replica_id)

    def cached(self, ticket: Ticket) -> int:
        """Prompt tokens that some replica likely has cached, the most of them."""
        if not ticket.prefix_blocks or not self._config.route.affinity:
            return 0
        return self._tokens(ticket, self._prefix.longest(ticket.prefix_blocks))

    def choice(self, replica: Replica, ticket: Ticket, now_s: float) -> Choice:
        """This replica, as if it had nothing of the ticket cached."""
        ttft_s = replica.clock.ttft_s(ticket.prompt_tokens, replica.running, now_s)
        return Choice(replica, 0, ttft_s, ttft_s)

    def has_place(self, tokens: int, room_s: float, now_s: float) -> bool:
        """Some replica has one, and room for a lease that reserves `tokens`, and its prompts delay who comes
        next by at most `room_s`."""
        return any(self._takes(one, tokens, 0, room_s, now_s) for one in self._pool.open)

    def keep_roomiest(self, now_s: float) -> None:
        """The one with the most tokens free is kept."""
        open_ = [one for one in self._pool.open if self._pool.reachable(one, now_s)]
        self.kept = max(open_, key=lambda one: one.limit.tokens - one.tokens, default=None)

    def find(
        self, ticket: Ticket, tokens: int, room_s: float, within_s: float, now_s: float
    ) -> Choice | None:
        """A replica with room for a lease that reserves `tokens`, whose prompts with this one delay who comes
        next by at most `room_s`; if possible one with the first token `within_s`. None: there is none.

        All of a small fleet are looked at; of a large one some at random and a few that know the prompt's
        beginning or the session. The best score wins, ties go to the least loaded. Where that may be too
        late, or none of these will do, the soonest of all does.
        """
        large = len(self._pool.open) > SMALL_FLEET
        some = [self._any() for _ in range(DRAWN)] if large else self._pool.open
        choices = self._choices(some, ticket, tokens, room_s, now_s)
        if large:
            known = self._knowing(ticket, tokens, room_s, now_s)
            choices += [self._choice(one, ticket, now_s) for one in known]
        elif len(choices) == 1:
            return choices[0]
        if choices:
            best = min(choices, key=_by_score)
            if best.ttft_s <= HURRY_SHARE * within_s:
                return best
        if large:
            choices = self._choices(self._pool.open, ticket, tokens, room_s, now_s)
        return min(choices, key=_by_time, default=None)

    def _any(self) -> Replica:
        return self._pool.open[min(int(self._uniform() * len(self._pool.open)), len(self._pool.open) - 1)]

    def _knowing(self, ticket: Ticket, tokens: int, room_s: float, now_s: float) -> list[Replica]:
        """A few that know the session or the longest part of the prompt, and can take it."""
        if not self._config.route.affinity:
            return []
        names = self._prefix.knowing(ticket.prefix_blocks, MAX_ASKED)
        session = self._sessions.get(ticket.session_id)
        if session is not None:
            names.insert(0, session)
        found: list[Replica] = []
        for name in names:
            replica = self._pool.replicas.get(name)
            if replica is None or replica.number is None:
                continue
            if self._takes(replica, tokens, ticket.prompt_tokens, room_s, now_s):
                found.append(replica)
                if len(found) == MAX_KNOWING:
                    break
        return found

    def _choices(
        self, replicas: list[Replica], ticket: Ticket, tokens: int, room_s: float, now_s: float
    ) -> list[Choice]:
        """Those that can take it."""
        return [
            self._choice(one, ticket, now_s)
            for one in replicas
            if self._takes(one, tokens, ticket.prompt_tokens, room_s, now_s)
        ]

    def _takes(self, replica: Replica, tokens: int, prompt_tokens: int, room_s: float, now_s: float) -> bool:
        if replica is self.kept or not replica.fits(tokens) or not self._pool.reachable(replica, now_s):
            return False
        return room_s == math.inf or replica.clock.delay_s(prompt_tokens, replica.running, now_s) <= room_s

    def _tokens(self, ticket: Ticket, blocks: int) -> int:
        return min(blocks * self._config.route.tokens_per_block, ticket.prompt_tokens)

    def _choice(self, replica: Replica, ticket: Ticket, now_s: float) -> Choice:
        replica_id, cached, knows = replica.report.replica_id, 0, False
        if self._config.route.affinity:
            if ticket.prefix_blocks:
                cached = self._tokens(ticket, self._prefix.length(replica_id, ticket.prefix_blocks))
            knows = cached > 0 or self._sessions.get(ticket.session_id) == replica_id
        tokens = ticket.prompt_tokens - cached
        ttft_s = replica.clock.ttft_s(tokens, replica.running, now_s)
        score_s = ttft_s + self._pool.pace.token_s * tokens if replica.clock.waiting else ttft_s
        if knows:
            score_s -= self._config.route.affinity_bonus_s
        return Choice(replica, cached, ttft_s, score_s)


def _by_score(choice: Choice) -> tuple[float, int, str]:
    return choice.score_s, choice.replica.running, choice.replica.report.replica_id


def _by_time(choice: Choice) -> tuple[float, str]:
    return choice.ttft_s, choice.replica.report.replica_id
