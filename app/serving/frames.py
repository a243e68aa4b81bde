"""What gateways and the scheduler write to each other, as frames: typed, so that a reader trusts no sender.

A gateway sends `Told`, the scheduler `Answers`. Fields that one side does not know it leaves out, so versions
may differ while an update is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from app.contract import Closing, Grant, Refusal
from app.flow.ticket import Ticket

T = TypeVar("T")

# Of one frame: thousands of tickets would hold up what others have to say.
MAX_JOINED = 256
# A ticket with the hashes of a prompt of 128,000 tokens has 72 kB.
MAX_FRAME_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Told:
    """Closings count before tickets: what has ended makes room for what comes."""

    closings: list[Closing]
    tickets: list[Ticket]


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
    """What is put in before the event loop's next turn leaves together; what comes while it leaves, next."""

    def __init__(self, send: Callable[[list[T]], Awaitable[None]]) -> None:
        self._send = send
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
        except ConnectionError:
            # Who reads from the connection hears of its end as well, and says so to those who wait.
            self._waiting.clear()
        finally:
            self._sending = None
