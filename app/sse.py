"""Server-sent events, as OpenAI's streams and the status page are made of: how they are written and read."""

from __future__ import annotations

from collections.abc import AsyncIterator

CONTENT_TYPE = "text/event-stream"
# What a line of an event's data begins with, and what ends the event.
DATA = b"data: "
END = b"\n\n"
# The data of the last event of OpenAI's streams.
DONE = b"[DONE]"


def event(data: bytes) -> bytes:
    """A line of the event for each of the data's."""
    return b"".join(DATA + line + b"\n" for line in data.splitlines()) + b"\n"


async def data_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each event up to `[DONE]`, a line at a time; chunks may cut events anywhere."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(DATA) and line[len(DATA) :] != DONE:
                yield line[len(DATA) :]
