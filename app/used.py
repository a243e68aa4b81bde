"""What a request used, told by the engine with the end of its answer: nothing else need be asked.

A whole answer tells it in a header; a stream in a comment after its last event, which goes no further than
the gateway. Who has not heard it, for it broke the answer off, asks for it (LEASES_PATH).
"""

from __future__ import annotations

import json

from app.contract import Metered

USED_HEADER = "x-engine-used"
# Lines of a stream's own events begin with a field's name, and its text has no bare line ends.
_COMMENT = b": used "
_EVENT_END = b"\n\n"
_BEGINS = _EVENT_END + _COMMENT[:1]


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
    return _COMMENT + to_text(metered).encode() + _EVENT_END


class StreamEnd:
    """Takes the comment off a stream that comes in pieces, wherever these were cut."""

    def __init__(self) -> None:
        self._last = _EVENT_END
        self._comment: bytes | None = None

    def events(self, chunk: bytes) -> bytes:
        """What of a piece goes on to the client."""
        if self._comment is not None:
            self._comment += chunk
            return b""
        known = len(self._last)
        joined = self._last + chunk
        at = joined.find(_BEGINS)
        if at < 0:
            self._last = joined[-len(_EVENT_END) :]
            return chunk
        begin = at + len(_EVENT_END)
        self._comment = joined[begin:]
        return chunk[: begin - known]

    @property
    def used(self) -> Metered | None:
        """None where the stream did not end with the comment."""
        if self._comment is None or not self._comment.endswith(_EVENT_END):
            return None
        return from_text(self._comment.removeprefix(_COMMENT))
