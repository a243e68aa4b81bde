"""What a request used, told by the engine with the end of its answer: nothing else need be asked.

A whole answer tells it in a header; a stream in a comment after its last event, which goes no further than
the gateway. Who has not heard it, for it broke the answer off, asks for it (LEASES_PATH).
"""

from __future__ import annotations

import json

from app import sse
from app.contract import Metered

USED_HEADER = "x-engine-used"
# Lines of a stream's own events begin with a field's name, and its text has no bare line ends.
_COMMENT = b": used "


def to_text(metered: Metered) -> str:
    tokens = [metered.prompt_tokens, metered.output_tokens]
    return json.dumps([*tokens, metered.first_token_at_s, metered.last_token_at_s, metered.failed])


def from_text(text: str | bytes) -> Metered:
    """Raises ValueError for what `to_text` has not written."""
    try:
        prompt, output, first_s, last_s, failed = json.loads(text)
        return Metered(int(prompt), int(output), first_s, last_s, bool(failed))
    except TypeError as error:
        raise ValueError(f"used: {text!r}: {error}") from None


def comment(metered: Metered) -> bytes:
    return _COMMENT + to_text(metered).encode() + sse.END


class StreamEnd:
    """Passes on a stream's whole events, wherever its pieces were cut, and takes the comment off.

    What of an event has come when its engine is lost goes no further: a client could not read on.
    """

    def __init__(self) -> None:
        # Of an event that has yet to end.
        self.begun = b""
        # None where the stream did not end with the comment.
        self.used: Metered | None = None

    def events(self, chunk: bytes) -> bytes:
        """What of a piece goes on to the client."""
        events, end, self.begun = (self.begun + chunk).rpartition(sse.END)
        before, between, last = events.rpartition(sse.END)
        if last.startswith(_COMMENT):
            self.used = from_text(last.removeprefix(_COMMENT))
            return before + between
        return events + end
