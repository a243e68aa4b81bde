"""The leases that an engine replica answers for: each pairs a control call with an HTTP request.

The two leave the gateway together and arrive as they come: a request begins at once, and nothing of its
answer leaves before its control call is there. Who has none is ended at its first token.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from app.contract import Metered

# The later of the two is at most a little late.
MEET_TIMEOUT_S = 10.0


@dataclass(slots=True)
class _Entry:
    held: asyncio.Event = field(default_factory=asyncio.Event)
    attached: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    metered: Metered = field(default_factory=Metered)
    # Set to end the request before it answers.
    revoked: asyncio.Event = field(default_factory=asyncio.Event)
    answering: bool = False

    @property
    def live(self) -> bool:
        return self.held.is_set() or not self.ended.is_set()


class Run:
    """What a request that runs under a lease tells of itself."""

    def __init__(self, lease_id: str, priority: int, entry: _Entry, leases: LiveLeases) -> None:
        self.priority = priority
        self.metered = entry.metered
        self.revoked = entry.revoked
        # The engine has died under it.
        self.orphaned = False
        # No control call has come for it.
        self.unheld = False
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
        return self.metered.revoked or self.orphaned or self.unheld

    async def may_answer(self) -> bool:
        """Waits for a control call that is late; where none comes the request ends, as if its client left."""
        if not self._entry.held.is_set() and not self.unheld:
            try:
                await asyncio.wait_for(self._entry.held.wait(), self._leases.meet_timeout_s)
            except TimeoutError:
                self.unheld = True
                self.revoked.set()
        return not self.withheld

    def answers(self) -> None:
        """Something of the answer is on its way: from now on the lease can't be taken back."""
        self._entry.answering = True

    def tokens(self) -> None:
        """The engine has made some: the first of the answer, or later ones."""
        if self.metered.revoked:
            return  # Too late: the ticket waits again.
        self.answers()
        self.metered.last_token_at_s = time.time()
        if self.metered.first_token_at_s is None:
            self.metered.first_token_at_s = self.metered.last_token_at_s
            self._leases.note_first_token(self._lease_id, self.metered.first_token_at_s)


class LiveLeases:
    """One event loop, no locks.

    A lease admits one request: it is live from the first of the two until that request has ended, and a
    second request with the same id is turned away.
    """

    def __init__(self, meet_timeout_s: float = MEET_TIMEOUT_S) -> None:
        self.meet_timeout_s = meet_timeout_s
        self._entries: dict[str, _Entry] = {}
        self._first_tokens: list[tuple[str, float]] = []
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def ids(self) -> frozenset[str]:
        """Leases that a control call holds or a request runs under."""
        return frozenset(id_ for id_, entry in self._entries.items() if entry.live)

    def output_tokens(self) -> dict[str, int]:
        """Tokens made so far, of those that have begun to answer."""
        made = ((id_, entry.metered.output_tokens) for id_, entry in self._entries.items())
        return {id_: tokens for id_, tokens in made if tokens}

    async def first_tokens(self) -> list[tuple[str, float]]:
        """Waits for news: leases that have begun to answer since the last call, and when (epoch seconds)."""
        await self._news.wait()
        self._news.clear()
        news, self._first_tokens = self._first_tokens, []
        return news

    def note_first_token(self, lease_id: str, at_s: float) -> None:
        self._first_tokens.append((lease_id, at_s))
        self._news.set()

    async def hold(self, lease_id: str) -> Metered:
        """The control call: returns what the request used, once it has ended.

        Raises TimeoutError when no request comes, ValueError when the lease is held already.
        """
        entry = self._entries.setdefault(lease_id, _Entry())
        if entry.held.is_set():
            raise ValueError(f"lease: {lease_id} is held already")
        entry.held.set()
        try:
            async with asyncio.timeout(self.meet_timeout_s):
                await entry.attached.wait()
            await entry.ended.wait()
            return entry.metered
        finally:
            self._entries.pop(lease_id, None)

    def attach(self, lease_id: str, priority: int) -> Run | None:
        """The HTTP request: None where the lease has one already."""
        entry = self._entries.setdefault(lease_id, _Entry())
        if entry.attached.is_set():
            return None
        entry.attached.set()
        return Run(lease_id, priority, entry, self)

    def revoke(self, lease_id: str) -> bool:
        """Take the lease back from a request that has not begun to answer; False when it is too late."""
        entry = self._entries.get(lease_id)
        if entry is None or entry.answering:
            return False
        entry.metered.revoked = True
        entry.revoked.set()
        return True

    def end(self, lease_id: str) -> None:
        """The HTTP request is over, however it ended; its control call may still come."""
        entry = self._entries.get(lease_id)
        if entry is None:
            return
        entry.ended.set()
        if not entry.live:
            asyncio.get_running_loop().call_later(self.meet_timeout_s, self._forget, lease_id, entry)

    def _forget(self, lease_id: str, entry: _Entry) -> None:
        if not entry.live and self._entries.get(lease_id) is entry:
            del self._entries[lease_id]
