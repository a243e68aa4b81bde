"""What is written on connections to the scheduler, as frames: typed, so that a reader trusts no sender.

Gateways and engines send `Told`, the scheduler `Answers`. Fields of a dataclass that a reader does not know
it leaves out, so versions may differ in these while an update is under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from app.contract import Closing, EngineReport, FirstToken, Grant, Refusal
from app.flow.ticket import Ticket

T = TypeVar("T")

logger = logging.getLogger("ray.serve")

# Of one frame: thousands of tickets would hold up what others have to say.
MAX_JOINED = 256
# A ticket has a kilobyte.
MAX_FRAME_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Told:
    """Closings count before tickets: what has ended makes room for what comes."""

    closings: list[Closing]
    tickets: list[Ticket]
    # Of an engine.
    first_tokens: list[FirstToken] = field(default_factory=list)
    reports: list[EngineReport] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answers:
    """By ticket."""

    grants: dict[str, Grant]
    refusals: dict[str, Refusal]


_encoder = msgspec.msgpack.Encoder()
_told = msgspec.msgpack.Decoder(Told)
_answers = msgspec.msgpack.Decoder(Answers)


def encode(frame: Told | Answers) -> bytes:
    return _encoder.encode(frame)


def decode_told(data: bytes) -> Told:
    """Raises ValueError."""
    return _told.decode(data)


def decode_answers(data: bytes) -> Answers:
    """Raises ValueError."""
    return _answers.decode(data)


class Outbox(Generic[T]):
    """What is put in before the event loop's next turn leaves together; what comes while it leaves, next.

    What can't be sent is lost, and the connection closed: who reads from it tells those who wait.
    """

    def __init__(
        self, send: Callable[[list[T]], Awaitable[None]], close: Callable[[], Awaitable[object]]
    ) -> None:
        self._send = send
        self._close = close
        self._waiting: list[T] = []
        self._sending: asyncio.Task[None] | None = None

    def put(self, one: T) -> None:
        self._waiting.append(one)
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_JOINED], self._waiting[MAX_JOINED:]
                await self._send(batch)
        except Exception as error:
            if not isinstance(error, ConnectionError):
                logger.exception("Writing to a connection to or from the scheduler failed")
            self._waiting.clear()
            await self._close()
        finally:
            self._sending = None
