"""Server-sent events, written and read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import sse

payloads = st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=2), max_size=5)


@settings(deadline=None)  # A machine that is busy with something else.
@given(payloads=payloads, ascii_only=st.booleans(), data=st.data())
def test_events_are_whole_wherever_the_chunks_cut_them(payloads, ascii_only, data):
    texts = [json.dumps(payload, ensure_ascii=ascii_only).encode(errors="replace") for payload in payloads]
    stream = b"".join(b"data: " + text + b"\n\n" for text in texts) + b"data: [DONE]\n\n"
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10).map(sorted))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    async def events() -> list[bytes]:
        async def arriving():
            for chunk in chunks:
                yield chunk

        return [event async for event in sse.data_of(arriving())]

    assert _result(events()) == texts


def _result(coroutine):
    """What a coroutine that never waits returns; an event loop for each example would take seconds."""
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    return end.value.value


def test_an_event_keeps_its_lines():
    assert sse.event(b"<p>\na</p>") == b"data: <p>\ndata: a</p>\n\n"
