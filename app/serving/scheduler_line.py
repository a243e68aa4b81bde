"""Calls to the scheduler, joined: what comes while calls are under way goes with the next, together.

A call costs both sides more than what is decided in it. At rest each request has its own at once; under load
one call carries many, and the scheduler keeps up.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from app.contract import Closing, Reply, Waits
from app.flow.ticket import Ticket

# Calls under way at a time: the second so that nobody waits for a call that has just left.
MAX_CALLS = 2
# Of one call: a message of thousands would hold up the scheduler's other callers.
MAX_JOINED = 256
# The scheduler answers such a call without waiting for anything.
TIMEOUT_S = 5.0

Tell = Callable[[Sequence[Ticket], Sequence[Closing]], Awaitable[Sequence[Reply | Waits]]]


@dataclass(slots=True)
class _Message:
    said: Ticket | Closing
    answer: asyncio.Future[Reply | Waits]

    @property
    def is_left(self) -> bool:
        """A ticket whose client has gone before it was told: its closing may go in the same call."""
        return isinstance(self.said, Ticket) and self.answer.done()


class SchedulerLine:
    """One a gateway. `tell` is one call to the scheduler; its error reaches everybody whom it spoke for."""

    def __init__(self, tell: Tell, timeout_s: float = TIMEOUT_S) -> None:
        self._tell = tell
        self._timeout_s = timeout_s
        self._waiting: list[_Message] = []
        self._calls: set[asyncio.Task[None]] = set()
        # Serve cancels all calls that a request has made when its client leaves; these carry many requests'.
        self._context = contextvars.copy_context()

    async def submit(self, ticket: Ticket) -> Reply | Waits:
        """Raises ConnectionError when the scheduler can't be reached, or says nothing."""
        return await self._say(ticket)

    async def close(self, closing: Closing) -> None:
        """Raises ConnectionError likewise."""
        await self._say(closing)

    async def _say(self, said: Ticket | Closing) -> Reply | Waits:
        loop = asyncio.get_running_loop()
        message = _Message(said, loop.create_future())
        self._waiting.append(message)
        if len(self._calls) < MAX_CALLS:
            call = loop.create_task(self._call_until_silent(), context=self._context)
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        return await message.answer

    async def _call_until_silent(self) -> None:
        while self._waiting:
            messages, self._waiting = self._waiting[:MAX_JOINED], self._waiting[MAX_JOINED:]
            messages = [message for message in messages if not message.is_left]
            if not messages:
                continue
            try:
                async with asyncio.timeout(self._timeout_s):
                    answers = await self._answers([message.said for message in messages])
            except Exception as error:
                if isinstance(error, TimeoutError):
                    error = ConnectionError(f"the scheduler has said nothing for {self._timeout_s:g} s")
                for message in messages:
                    _settle(message, error)
                continue
            for message, answer in zip(messages, answers, strict=True):
                _settle(message, answer)

    async def _answers(self, said: Sequence[Ticket | Closing]) -> list[Reply | Waits]:
        """One for each; None for a closing."""
        tickets = [one for one in said if isinstance(one, Ticket)]
        replies = iter(await self._tell(tickets, [one for one in said if isinstance(one, Closing)]))
        return [next(replies) if isinstance(one, Ticket) else None for one in said]


def _settle(message: _Message, answer: Reply | Waits | Exception) -> None:
    """Whoever has gone away wants no answer."""
    if message.answer.done():
        return
    if isinstance(answer, Exception):
        message.answer.set_exception(answer)
    else:
        message.answer.set_result(answer)
