"""The leases that an engine replica runs requests under, and what became of them."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.contract import FirstToken, Metered

# A gateway that has broken off an answer asks at once what it used. What was said at an answer's end may not
# have reached it, so that is kept too.
KEPT_S = 10.0

_T = TypeVar("_T")


@dataclass(slots=True)
class _Entry:
    metered: Metered = field(default_factory=Metered)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    # Set where the lease was taken back before the first token: the request ends, its ticket waits again.
    revoked: asyncio.Event = field(default_factory=asyncio.Event)
    answering: bool = False


class Run:
    """What a request that runs under a lease tells of itself."""

    def __init__(self, lease_id: str, priority: int, entry: _Entry, leases: LiveLeases) -> None:
        self.priority = priority
        self.metered = entry.metered
        self.revoked = entry.revoked
        # The engine has died under it.
        self.orphaned = False
        self._lease_id = lease_id
        self._entry = entry
        self._leases = leases

    @property
    def crowd(self) -> int:
        """Requests that are on the engine, this one included."""
        return len(self._leases)

    @property
    def withheld(self) -> bool:
        """Whatever is said now does not leave."""
        return self.revoked.is_set() or self.orphaned

    def answers(self) -> None:
        """Something of the answer is on its way: from now on the lease can't be taken back."""
        self._entry.answering = True

    def tokens(self) -> None:
        """The engine has made some: the first of the answer, or later ones."""
        if self.revoked.is_set():
            return  # Too late: the ticket waits again.
        self.answers()
        self.metered.last_token_at_s = time.time()
        if self.metered.first_token_at_s is None:
            self.metered.first_token_at_s = self.metered.last_token_at_s
            self._leases.note_first_tokens(FirstToken(self._lease_id, self.metered.first_token_at_s))


class _Recent(Generic[_T]):
    """What was put here in the last `kept_s`, by lease."""

    def __init__(self, kept_s: float) -> None:
        self._kept_s = kept_s
        # With the time, oldest first.
        self._items: OrderedDict[str, tuple[float, _T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, lease_id: str, item: _T) -> None:
        self._drop_old()
        self._items[lease_id] = time.monotonic(), item

    def get(self, lease_id: str) -> _T | None:
        kept = self._items.get(lease_id)
        return None if kept is None else kept[1]

    def pop(self, lease_id: str) -> _T | None:
        self._drop_old()
        kept = self._items.pop(lease_id, None)
        return None if kept is None else kept[1]

    def _drop_old(self) -> None:
        since_s = time.monotonic() - self._kept_s
        while self._items and next(iter(self._items.values()))[0] < since_s:
            self._items.popitem(last=False)


class LiveLeases:
    """One event loop, no locks.

    A lease is live while its request runs; meanwhile a second request with the same id is turned away.
    """

    def __init__(self, kept_s: float = KEPT_S) -> None:
        self._live: dict[str, _Entry] = {}
        # Set while no request runs.
        self.idle = asyncio.Event()
        self.idle.set()
        self._closed = False
        # How many requests have begun, ever.
        self._begun = 0
        # What requests used that have ended.
        self._ended: _Recent[Metered] = _Recent(kept_s)
        # Leases that were taken back before their requests came.
        self._revoked: _Recent[bool] = _Recent(kept_s)
        self._first_tokens: list[FirstToken] = []
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._live)

    def ids(self) -> frozenset[str]:
        return frozenset(self._live)

    def output_tokens(self) -> dict[str, int]:
        """Tokens made so far, of those that have begun to answer."""
        made = ((id_, entry.metered.output_tokens) for id_, entry in self._live.items())
        return {id_: tokens for id_, tokens in made if tokens}

    async def first_tokens(self) -> list[FirstToken]:
        """Waits for news: leases that have begun to answer since the last call."""
        await self._news.wait()
        self._news.clear()
        news, self._first_tokens = self._first_tokens, []
        return news

    def note_first_tokens(self, *news: FirstToken) -> None:
        self._first_tokens += news
        self._news.set()

    def attach(self, lease_id: str, priority: int) -> Run | None:
        """A request begins: None where one runs under the lease already, or nothing may begin any more."""
        if self._closed or lease_id in self._live:
            return None
        self._ended.pop(lease_id)
        entry = self._live[lease_id] = _Entry()
        self._begun += 1
        self.idle.clear()
        if self._revoked.pop(lease_id):
            self.revoke(lease_id)
        return Run(lease_id, priority, entry, self)

    def revoke(self, lease_id: str) -> bool:
        """Take the lease back from a request that has not begun to answer, or that is still on its way; False
        when it is too late."""
        entry = self._live.get(lease_id)
        if entry is None and self._ended.get(lease_id) is None:
            self._revoked.put(lease_id, True)
            return True
        if entry is None or entry.answering:
            return False
        entry.revoked.set()
        return True

    async def used(self, lease_id: str) -> Metered | None:
        """What the request used, once it has ended; None where nothing is known of it (any more)."""
        entry = self._live.get(lease_id)
        if entry is None:
            return self._ended.get(lease_id)
        await entry.ended.wait()
        return entry.metered

    def end(self, lease_id: str) -> None:
        """The request is over, however it ended."""
        entry = self._live.pop(lease_id, None)
        if entry is None:
            return
        entry.ended.set()
        if not self._live:
            self.idle.set()
        self._ended.put(lease_id, entry.metered)

    async def close(self, quiet_s: float) -> None:
        """Returns when nothing has run for so long; from then on nothing begins."""
        while not self._closed:
            await self.idle.wait()
            begun = self._begun
            await asyncio.sleep(quiet_s)
            # One that came and went meanwhile may have others behind it.
            self._closed = self.idle.is_set() and self._begun == begun
