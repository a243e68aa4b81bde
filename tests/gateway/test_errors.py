"""Errors as clients see them."""

from __future__ import annotations

import json
import pickle

import pytest

from app.flow.outcome import Outcome
from app.gateway.errors import SHOWN_VALUE_CHARS, ApiError, engine_lost, invalid, refused, shorten


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_the_body_is_openais_error_object(status, type_):
    error = ApiError(status, "some_code", "Some message.", "some_field")
    assert json.loads(error.body()) == {
        "error": {"message": "Some message.", "type": type_, "param": "some_field", "code": "some_code"}
    }


def test_a_retry_hint_is_a_header_in_whole_seconds():
    assert engine_lost(7).headers() == [(b"content-type", b"application/json"), (b"retry-after", b"7")]
    assert invalid("n", 0, "is too small").headers() == [(b"content-type", b"application/json")]


def test_a_refusal_that_names_no_time_is_not_to_be_retried():
    error = refused(Outcome.REJECTED_DEADLINE, None)
    assert error.headers()[1:] == [(b"x-should-retry", b"false")]
    assert error.message == Outcome.REJECTED_DEADLINE.reason


def test_as_the_end_of_a_stream_it_is_one_event():
    error = engine_lost(7)
    assert error.sse_event() == b"data: " + error.body() + b"\n\n"
    assert error.sse_event().count(b"\n") == 2


@pytest.mark.parametrize(
    "error",
    [ApiError(429, "rejected_full", "Full.", "field", 3), invalid("n", 0, "is too small")],
    ids=lambda error: error.code,
)
def test_it_crosses_processes_whole(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ApiError
    assert (copy.payload(), copy.status, copy.headers()) == (error.payload(), error.status, error.headers())
    assert str(copy) == str(error) == f"{error.status} {error.code}: {error.message}"


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.refuses])
def test_every_refusal_of_the_scheduler_has_its_status_its_label_and_a_time_to_come_back(outcome):
    error = refused(outcome, 9)
    assert (error.status, error.code, error.retry_after_s) == (outcome.status, outcome.label, 9)
    assert error.status in (400, 413, 429, 503)
    assert error.message == f"{outcome.reason} Try again in 9 s."


def test_a_value_is_shown_whole_or_cut_to_its_bound():
    whole = "x" * (SHOWN_VALUE_CHARS - 2)
    assert shorten(whole) == repr(whole)
    assert len(shorten(whole + "x")) == SHOWN_VALUE_CHARS
    assert shorten(whole + "x").endswith("…")
