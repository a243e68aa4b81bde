"""The leases that an engine replica answers for, from the control call to the end of the HTTP request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from app.contract import Usage

# The control call and the request leave the gateway together; the later one is at most a little late.
ATTACH_TIMEOUT_S = 10.0


@dataclass(slots=True)
class _Entry:
    held: asyncio.Event = field(default_factory=asyncio.Event)
    attached: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    usage: Usage = field(default_factory=Usage)


class LiveLeases:
    """Pairs each control call with its HTTP request. One event loop, no locks.

    A lease admits one request: it is live from `hold` until that request has ended, and a second request
    with the same id is turned away.
    """

    def __init__(self, attach_timeout_s: float = ATTACH_TIMEOUT_S) -> None:
        self._attach_timeout_s = attach_timeout_s
        self._entries: dict[str, _Entry] = {}

    def ids(self) -> frozenset[str]:
        """Leases that are held: by the control call, with or without their request."""
        return frozenset(id_ for id_, entry in self._entries.items() if entry.held.is_set())

    async def hold(self, lease_id: str) -> Usage:
        """The control call: returns what the request used, once it has ended.

        Raises TimeoutError when no request comes, ValueError when the lease is held already.
        """
        entry = self._entries.setdefault(lease_id, _Entry())
        if entry.held.is_set():
            raise ValueError(f"lease: {lease_id} is held already")
        entry.held.set()
        try:
            async with asyncio.timeout(self._attach_timeout_s):
                await entry.attached.wait()
            await entry.ended.wait()
            return entry.usage
        finally:
            self._entries.pop(lease_id, None)

    async def attach(self, lease_id: str) -> Usage | None:
        """The HTTP request: a usage to fill when it may run; waits for a control call that is late."""
        entry = self._entries.setdefault(lease_id, _Entry())
        if entry.attached.is_set():
            return None
        entry.attached.set()
        try:
            async with asyncio.timeout(self._attach_timeout_s):
                await entry.held.wait()
            return entry.usage
        except TimeoutError:
            return None
        finally:
            if not entry.held.is_set():
                self._entries.pop(lease_id, None)

    def end(self, lease_id: str) -> None:
        """The HTTP request is over, however it ended."""
        entry = self._entries.get(lease_id)
        if entry is not None:
            entry.ended.set()
