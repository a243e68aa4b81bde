"""How long an answer waits for a reader that takes nothing: by itself it would wait for ever."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from types import TracebackType

from starlette.types import Message, Send

# An answer waits for its reader for at most so many stalls in all.
STALLS_IN_ALL = 20


class ReaderStalledError(Exception):
    """The reader takes nothing of the answer."""


class ReaderWatch:
    """`with ReaderWatch(stall_s, stalled) as watch:` calls `stalled`, once, where what is between
    `watch.waits()` and `watch.took()` has lasted for `stall_s`, or for so many of them in all (then up to one
    stall later): who takes a little now and then would hold an engine's places for hours.

    One timer looks after all parts of an answer: each would pay for one of its own.
    """

    def __init__(self, stall_s: float, stalled: Callable[[], object]) -> None:
        self._stall_s = stall_s
        self._stalled = stalled
        # It has been called.
        self.over = False
        self._left_s = STALLS_IN_ALL * stall_s
        # When the part that is offered began to wait.
        self._since_s: float | None = None
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> ReaderWatch:
        if self._stall_s != math.inf:
            self._look_at(self._loop.time() + self._stall_s)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def waits(self) -> None:
        self._since_s = self._loop.time()

    def took(self) -> None:
        assert self._since_s is not None
        self._left_s -= self._loop.time() - self._since_s
        self._since_s = None

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
            self.over = True
            self._stalled()


class Patience:
    """`async with Patience(send, stall_s) as patience:` the block ends with ReaderStalledError where the
    client takes nothing of what `patience.send` sends."""

    def __init__(self, send: Send, stall_s: float) -> None:
        self._send = send
        self._bound = asyncio.timeout(None)
        self._watch = ReaderWatch(stall_s, self._end)

    async def __aenter__(self) -> Patience:
        await self._bound.__aenter__()
        self._watch.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watch.__exit__()
        try:
            await self._bound.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise ReaderStalledError from None

    async def send(self, message: Message) -> None:
        self._watch.waits()
        await self._send(message)
        self._watch.took()

    def _end(self) -> None:
        self._bound.reschedule(asyncio.get_running_loop().time())
