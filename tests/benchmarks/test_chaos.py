"""The account has to see what it is there for: each fate by its own sign."""

from __future__ import annotations

import json
from collections import deque

import httpx
import openai
import psutil
import pytest

from benchmarks.chaos.account import Account, count
from benchmarks.chaos.cell import PHASES, Application, Cell, every_ask, load, recovery_s, strays
from benchmarks.chaos.client import Ask, Attempt, Fate
from benchmarks.chaos.command import accounted, check, measured_on, summary, table
from benchmarks.chaos.parts import TITLES
from benchmarks.soak import Sample, growth

APPLICATION = Application("http://x", "m", 2, 2, 8, list)
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


def test_the_recovery_of_few_runs_is_their_worst_and_never_where_one_has_not_recovered():
    runs = [Account("a", seed, recovery_s=seconds) for seed, seconds in enumerate((3.0, 1.0))]
    figures = summary([*runs, Account("b", 0, recovery_s=1.0), Account("b", 1)])
    cells = figures["cells"]
    assert (cells["a"]["recovery_s_p99"], cells["a"]["not_recovered"]) == (3.0, 0)
    assert (cells["b"]["recovery_s_p99"], cells["b"]["not_recovered"]) == (None, 1)
    assert "never" in table(figures).splitlines()[-1]


def test_a_run_that_could_not_be_measured_is_counted_apart():
    figures = summary(
        [Account("a", 0, recovery_s=1.0), Account("a", 1, error="x"), Account("b", 0, error="x")]
    )
    a, b = figures["cells"]["a"], figures["cells"]["b"]
    assert (a["runs"], a["not_measured"], a["recovery_s_p99"]) == (1, 1, 1.0)
    assert (b["runs"], b["not_measured"]) == (0, 1)
    assert "never" not in table(figures).splitlines()[-1]


@pytest.mark.parametrize("error", [LookupError("part: none"), TimeoutError("phase"), psutil.NoSuchProcess(1)])
def test_what_a_run_fails_of_is_recorded(error: Exception):
    async def fails() -> Account:
        raise error

    account = accounted(fails(), "a", 7)
    assert (account.cell, account.seed) == ("a", 7)
    assert type(error).__name__ in account.error


@pytest.mark.parametrize(
    ("cell", "needed"), [("raylet:kill:queued", "--nodes 2"), ("engine-worker:kill:queued", "--workers 2")]
)
def test_a_cell_whose_part_is_not_there_is_refused(cell: str, needed: str):
    with pytest.raises(ValueError, match=needed):
        check([Cell.parse(cell)], workers=1, nodes=1)
    check([Cell.parse(cell)], workers=2, nodes=2)


def test_no_run_begins_on_an_application_that_another_has_left_broken():
    whole, broken = Account("a", 0, restored_s=1.0), Account("a", 1)
    left = deque(lambda *_, one=one: one for one in (whole, broken, whole))
    assert measured_on(APPLICATION, KNOWN, 1, left) == [whole, broken]
    assert measured_on(APPLICATION, KNOWN, 1, left) == [whole]
    assert not left


class FakeProcess:
    """A process of a title; `parent` None: it has none, or an error of asking for it."""

    def __init__(self, title: str, parent: FakeProcess | psutil.Error | None = None) -> None:
        self._title, self._parent = title, parent

    def status(self) -> str:
        if not self._title:
            raise psutil.NoSuchProcess(1)
        return psutil.STATUS_RUNNING

    def cmdline(self) -> list[str]:
        return [self._title]

    def parent(self) -> FakeProcess | None:
        if isinstance(self._parent, psutil.Error):
            raise self._parent
        return self._parent


def test_a_core_without_a_replica_is_a_stray_whatever_became_of_its_parent():
    core, replica = TITLES["engine-core"], FakeProcess(TITLES["engine-replica"])
    lost = [
        FakeProcess(core),
        FakeProcess(core, psutil.NoSuchProcess(1)),
        FakeProcess(core, FakeProcess("init")),
    ]
    assert strays([FakeProcess(core, replica), *lost, FakeProcess("")]) == lost


def test_what_grows_for_the_whole_time_is_a_leak_and_what_fills_at_first_is_not():
    leaking = [Sample(float(n), 100.0 + 2 * n, 50.0, 10.0) for n in range(60)]
    filling = [Sample(float(n), 100.0 + min(2 * n, 20), 50.0, 10.0) for n in range(60)]
    assert growth(leaking)["memory_mib"]["leaks"]
    assert not growth(leaking)["descriptors"]["leaks"]
    assert not growth(filling)["memory_mib"]["leaks"]
