"""Errors as clients see them."""

from __future__ import annotations

import json
import pickle

import pytest

from app.contract import RateLimits, Refusal
from app.flow.outcome import Outcome
from app.flow.ticket import RateLimit
from app.gateway.errors import SHOWN_VALUE_CHARS, ApiError, engine_lost, invalid, refused, shorten

NO_LIMITS = RateLimits(RateLimit(None, None, 0.0), RateLimit(None, None, 0.0))


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
    assert engine_lost().headers() == [(b"content-type", b"application/json"), (b"retry-after", b"5")]
    assert invalid("n", 0, "is too small").headers() == [(b"content-type", b"application/json")]


def test_as_the_end_of_a_stream_it_is_one_event():
    error = engine_lost()
    assert error.sse_event() == b"data: " + error.body() + b"\n\n"
    assert error.sse_event().count(b"\n") == 2


@pytest.mark.parametrize(
    "error",
    [
        ApiError(429, "rejected_full", "Full.", "field", 3, 1.5, NO_LIMITS, retryable=False),
        ApiError(405, "method_not_allowed", "No.", "method", allow="POST"),
        invalid("n", 0, "is too small"),
    ],
    ids=lambda error: error.code,
)
def test_it_crosses_processes_whole(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ApiError
    assert copy.__dict__ == error.__dict__
    assert (copy.payload(), copy.status, copy.headers()) == (error.payload(), error.status, error.headers())
    assert str(copy) == str(error) == f"{error.status} {error.code}: {error.message}"


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.refuses])
def test_every_refusal_of_the_scheduler_has_its_status_its_label_and_a_time_to_come_back(outcome):
    error = refused(Refusal(outcome, 9))
    retry_after_s = 9 if outcome.status in (429, 503) else None
    assert (error.status, error.code, error.retry_after_s) == (outcome.status, outcome.label, retry_after_s)
    hint = "Try again in 9 s." if retry_after_s else "No place can be kept for a retry."
    assert error.message == f"{outcome.reason} {hint}"
    assert ((b"x-should-retry", b"false") in error.headers()) == (retry_after_s is None)


def test_a_refusal_without_a_time_tells_clients_not_to_try_again():
    error = refused(Refusal(Outcome.REJECTED_DEADLINE, None))
    assert (error.status, error.headers()[1:]) == (429, [(b"x-should-retry", b"false")])


def test_a_refusal_tells_the_predicted_wait_and_the_tenants_limits():
    limits = RateLimits(RateLimit(60, 0, 0.25), RateLimit(6000, 5000, 75.4))
    error = refused(Refusal(Outcome.REJECTED_DEADLINE, 3, 4.5678, limits))
    assert error.payload()["error"]["predicted_wait_s"] == 4.568
    assert error.headers()[2:] == [
        (b"x-ratelimit-limit-requests", b"60"),
        (b"x-ratelimit-remaining-requests", b"0"),
        (b"x-ratelimit-reset-requests", b"250ms"),
        (b"x-ratelimit-limit-tokens", b"6000"),
        (b"x-ratelimit-remaining-tokens", b"5000"),
        (b"x-ratelimit-reset-tokens", b"1m15s"),
    ]


def test_a_value_is_shown_whole_or_cut_to_its_bound():
    whole = "x" * (SHOWN_VALUE_CHARS - 2)
    assert shorten(whole) == repr(whole)
    assert len(shorten(whole + "x")) == SHOWN_VALUE_CHARS
    assert shorten(whole + "x").endswith("…")
