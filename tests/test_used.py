"""What a request used, told with the end of its answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import used
from app.contract import Metered

METERED = Metered(3, 5, first_token_at_s=1000.5, last_token_at_s=1002.0, failed=True)
EVENTS = b'data: {"text": ": used\\n\\n:"}\n\ndata: {"a"\n: 1}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("metered", [Metered(), METERED])
def test_it_is_read_as_it_was_written(metered):
    assert used.from_text(used.to_text(metered)) == metered


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1, 2]", "[1, null, 3, 4]", "7", '["a", 1, 2, 3]'])
def test_anything_else_is_an_error(text):
    with pytest.raises(ValueError, match=r"."):
        used.from_text(text)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted({*(cut % (len(stream) + 1) for cut in cuts), len(stream)})
    return [stream[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


@given(st.lists(st.integers(0, 500), max_size=12))
def test_the_comment_is_taken_off_wherever_the_stream_was_cut(cuts):
    end = used.StreamEnd()
    passed = b"".join(end.events(one) for one in pieces(EVENTS + used.comment(METERED), cuts))
    assert (passed, end.used) == (EVENTS, METERED)


@given(st.lists(st.integers(0, 500), max_size=12), st.integers(1, 30))
def test_a_stream_that_breaks_off_has_not_said_it_and_loses_no_event(cuts, missing):
    whole = EVENTS + used.comment(METERED)
    end = used.StreamEnd()
    passed = b"".join(end.events(one) for one in pieces(whole[:-missing], cuts))
    assert (passed, end.used) == (EVENTS, None)


@given(st.lists(st.integers(0, 500), max_size=12), st.integers(0, len(EVENTS)))
def test_nothing_of_an_event_that_breaks_off_is_passed_on(cuts, length):
    end = used.StreamEnd()
    passed = b"".join(end.events(one) for one in pieces(EVENTS[:length], cuts))
    whole = EVENTS[:length].rpartition(b"\n\n")
    assert (passed, end.begun) == (whole[0] + whole[1], whole[2])


def test_a_stream_without_an_event_may_end_with_the_comment():
    end = used.StreamEnd()
    assert (end.events(used.comment(METERED)), end.used) == (b"", METERED)
