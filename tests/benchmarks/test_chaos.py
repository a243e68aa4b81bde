"""The account has to see what it is there for: each fate by its own sign."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from benchmarks.chaos.account import Account, count
from benchmarks.chaos.cell import PHASES, Cell, every_ask, load, recovery_s
from benchmarks.chaos.client import Ask, Attempt, Fate
from benchmarks.chaos.command import summary
from benchmarks.soak import Sample, growth

ASK = Ask("hello", 4, stream=True)
KNOWN = {("hello", 4): "one two three four"}


def chunk(text: str, finish_reason: str | None = None) -> str:
    choice = {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": None}
    return json.dumps(
        {"id": "x", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}
    )


ERROR = json.dumps(
    {"error": {"message": "gone", "type": "server_error", "param": None, "code": "engine_lost"}}
)


class Broken(httpx.AsyncByteStream):
    """A connection that breaks after these events."""

    def __init__(self, *events: str) -> None:
        self._events = events

    async def __aiter__(self):
        for event in self._events:
            yield f"data: {event}\n\n".encode()
        raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")


def events(*data: str) -> httpx.Response:
    content = "".join(f"data: {one}\n\n" for one in data).encode()
    return httpx.Response(200, content=content, headers={"content-type": "text/event-stream"})


def broken(*data: str) -> httpx.Response:
    return httpx.Response(200, stream=Broken(*data), headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize(
    ("response", "fate"),
    [
        (events(chunk("one two "), chunk("three four", "length"), "[DONE]"), Fate.COMPLETED),
        (events(chunk("one two "), "[DONE]"), Fate.TRUNCATED),
        (events("[DONE]"), Fate.TRUNCATED),
        (events(chunk("one two three four"), "[DONE]"), Fate.TRUNCATED),
        (events(chunk("one two "), chunk("one two three four", "length"), "[DONE]"), Fate.DIFFERENT),
        (events(chunk("one two "), ERROR), Fate.ERROR),
        (events(chunk("one one "), ERROR), Fate.DIFFERENT),
        (events(ERROR), Fate.ERROR),
        (broken(chunk("one two ")), Fate.BROKEN),
        (broken(chunk("somebody else's ")), Fate.DIFFERENT),
        (httpx.Response(503, json={"error": {"message": "no", "code": "rejected_no_engine"}}), Fate.ERROR),
    ],
)
async def test_each_end_of_a_request_has_its_own_fate(response: httpx.Response, fate: Fate):
    transport = httpx.MockTransport(lambda _: response)
    http = httpx.AsyncClient(transport=transport)
    client = openai.AsyncOpenAI(base_url="http://x/v1", api_key="k", max_retries=0, http_client=http)
    attempt = Attempt(ASK)
    await attempt.run(client, "m", KNOWN)
    assert attempt.fate is fate, attempt.detail


def attempt_of(fate: Fate | None, first_s: float | None = None) -> Attempt:
    attempt = Attempt(ASK)
    attempt.fate, attempt.first_s, attempt.ended_s = fate, first_s, attempt.sent_s
    return attempt


def test_the_account_counts_what_must_not_be_and_one_without_an_end_is_lost():
    account = Account("cell", 0)
    fates = [Fate.COMPLETED, Fate.TRUNCATED, Fate.DIFFERENT, Fate.LOST, None, Fate.BROKEN]
    count(account, [attempt_of(fate) for fate in fates] + [attempt_of(Fate.ERROR, first_s=1.0)], 0.0)
    assert (account.requests, account.lost, account.truncated_silently, account.different) == (7, 2, 1, 1)
    assert account.failed_without_token == 1
    assert not account.clean


def test_errors_that_are_said_are_a_clean_end():
    account = Account("cell", 0)
    count(account, [attempt_of(Fate.COMPLETED), attempt_of(Fate.ERROR), attempt_of(Fate.BROKEN)], 0.0)
    assert account.clean
    account.leaked = 1
    assert not account.clean


@pytest.mark.parametrize("text", ["", "gateway", "gateway:kill", "gateway:burn:queued", "moon:kill:queued"])
def test_a_cell_that_is_none_is_refused(text: str):
    with pytest.raises(ValueError, match="cell:"):
        Cell.parse(text)


def test_a_cell_is_its_own_name():
    assert str(Cell.parse("engine-core:freeze:mid-stream")) == "engine-core:freeze:mid-stream"


def test_every_phase_sends_streams_and_whole_requests_whose_answers_are_learnt():
    known = {(ask.prompt, ask.tokens) for ask in every_ask(8)}
    for phase in PHASES:
        asks = load(phase, 8)
        assert {ask.stream for ask in asks} == {True, False}
        assert {(ask.prompt, ask.tokens) for ask in asks} <= known


def sent(at_s: float, first_s: float | None) -> Attempt:
    attempt = Attempt(ASK)
    attempt.sent_s, attempt.first_s = at_s, first_s
    return attempt


def test_what_was_sent_before_the_fault_shows_no_recovery():
    untouched, unanswered = sent(9.0, 10.5), sent(10.1, None)
    assert recovery_s([untouched, unanswered], 10.0) is None
    assert recovery_s([untouched, unanswered, sent(10.2, 14.0), sent(10.3, 13.0)], 10.0) == 3.0


def test_the_recovery_of_few_runs_is_their_worst_and_of_none_is_not_known():
    runs = [Account("a", seed, recovery_s=seconds) for seed, seconds in enumerate((3.0, 1.0, None))]
    cells = summary([*runs, Account("b", 0)])["cells"]
    assert (cells["a"]["recovery_s_p99"], cells["a"]["not_recovered"]) == (3.0, 1)
    assert cells["b"]["recovery_s_p99"] is None


def test_what_grows_for_the_whole_time_is_a_leak_and_what_fills_at_first_is_not():
    leaking = [Sample(float(n), 100.0 + 2 * n, 50.0, 10.0) for n in range(60)]
    filling = [Sample(float(n), 100.0 + min(2 * n, 20), 50.0, 10.0) for n in range(60)]
    assert growth(leaking)["memory_mib"]["leaks"]
    assert not growth(leaking)["descriptors"]["leaks"]
    assert not growth(filling)["memory_mib"]["leaks"]
