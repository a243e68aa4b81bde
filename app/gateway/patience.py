"""How long an answer waits for a client that reads nothing: a server's `send` waits for ever."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType

from starlette.types import Message, Send

# An answer waits for its client for at most so many stalls in all.
STALLS_IN_ALL = 20


class ReaderStalledError(Exception):
    """The client takes nothing of its answer."""


class Patience:
    """`async with Patience(send, stall_s) as patience:` the block ends with ReaderStalledError where
    `patience.send` has waited for `stall_s` at a time, or for so many of them in all (then up to one stall
    later): who takes a little now and then would hold an engine's places for hours.

    One timer looks after all messages: each would pay for one of its own.
    """

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send = send
        self._stall_s = stall_s
        self._left_s = STALLS_IN_ALL * stall_s
        # When the message that is being sent began to wait.
        self._since_s: float | None = None
        self._bound = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Patience:
        await self._bound.__aenter__()
        if self._stall_s != math.inf:
            self._look_at(self._loop.time() + self._stall_s)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._bound.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise ReaderStalledError from None

    async def send(self, message: Message) -> None:
        self._since_s = began_s = self._loop.time()
        await self._send(message)
        self._since_s = None
        self._left_s -= self._loop.time() - began_s

    def _look_at(self, at_s: float) -> None:
        self._timer = self._loop.call_at(at_s, self._look)

    def _look(self) -> None:
        now_s = self._loop.time()
        if self._since_s is None:
            self._look_at(now_s + self._stall_s)
            return
        end_s = self._since_s + min(self._stall_s, self._left_s)
        if now_s < end_s:
            self._look_at(end_s)
        else:
            self._bound.reschedule(now_s)
