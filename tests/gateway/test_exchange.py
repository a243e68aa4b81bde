"""One request's life: whatever happens, its ticket is closed once, with what happened."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace

import aiohttp
import pytest
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, SpanContext, TraceFlags

from app.contract import (
    ENGINE_DIED_STATUS,
    LEASE_HEADER,
    PRIORITY_HEADER,
    REVOKED_STATUS,
    SECRET_HEADER,
    Grant,
    Metered,
    Refusal,
)
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket, Usage
from app.gateway.errors import ApiError
from app.gateway.exchange import ENGINE_ATTEMPTS, SCHEDULER_PATIENCE_S, Exchange
from app.gateway.requests import Request
from tests.fakes import SECRET, TIERS, Closed, FakeControlPlane, FakeEngine, dead_port, soon

TICKET = Ticket("", priority=2, arrived_s=0.0, tenant="blue", prompt_tokens=3)
STREAM = Request("/v1/completions", b'{"stream": true}', stream=True, ticket=TICKET)
WHOLE = Request("/v1/completions", b"{}", stream=False, ticket=TICKET)
FULL = Refusal(Outcome.REJECTED_FULL, 7)
NOBODY_THERE = Grant(dead_port(), 0.0)
# Long enough to be waited for, short enough to be waited out.
BRIEF_S = 0.1

# What Serve keeps of a request; it cancels the calls that were made in its context.
client: ContextVar[str | None] = ContextVar("client", default=None)


@asynccontextmanager
async def exchange_over(
    control: FakeControlPlane,
    silence_s: float = 60.0,
    heartbeat_s: float = 60.0,
    scheduler_retry_s: float = 0.001,
):
    async with aiohttp.ClientSession() as http:
        yield Exchange(control, http, TIERS, silence_s, heartbeat_s, scheduler_retry_s)


async def test_the_trace_of_a_request_goes_with_its_ticket_and_to_its_engine(engine):
    control = FakeControlPlane(engine.grant, engine.grant)
    traced = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1)))
    async with exchange_over(control) as exchange:
        for span in (traced, INVALID_SPAN):
            answering = asyncio.create_task(_answered(exchange, span))
            request = await engine.next_request()
            request.answer(200, b"{}")
            await soon(answering)
            expected = f"00-{1:032x}-{2:016x}-01" if span is traced else None
            assert request.headers.get("traceparent") == expected
            assert control.tickets[-1].traceparent == (expected or "")


async def _answered(exchange: Exchange, span: Span) -> None:
    async with exchange.answer(WHOLE, span) as answer:
        assert [chunk async for chunk in answer.chunks]


async def drained(exchange: Exchange, request: Request, first: asyncio.Event | None = None) -> bytes:
    """The whole answer; `first` is set with its first bytes."""
    body = b""
    async with exchange.answer(request) as answer:
        async for chunk in answer.chunks:
            body += chunk
            if first is not None:
                first.set()
    return body


async def test_a_lease_lets_the_bytes_through_and_the_ticket_is_closed_with_its_usage(engine):
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, STREAM))
        request = await engine.next_request()
        request.begin()
        request.send(b"data: 1\n\n")
        request.send(b"data: 2\n\n")
        request.end(Metered(prompt_tokens=3, output_tokens=5))
        assert await soon(answering) == b"data: 1\n\ndata: 2\n\n"
        ticket = control.tickets[0]
        assert (request.path, request.body) == (STREAM.path, STREAM.body)
        assert request.headers[SECRET_HEADER] == SECRET
        assert request.headers[LEASE_HEADER] == ticket.ticket_id
        assert request.headers[PRIORITY_HEADER] == "1"
        assert ticket == replace(TICKET, ticket_id=ticket.ticket_id, arrived_s=ticket.arrived_s)
        assert ticket.ticket_id
        assert time.time() - 60 < ticket.arrived_s <= time.time()
        assert await control.next_close() == Closed(ticket.ticket_id, Outcome.COMPLETED, Usage(3, 5))
    assert control.all_closes_seen
    assert not request.abandoned.is_set()


async def test_a_whole_answer_comes_with_what_a_client_is_told_of_its_way(engine):
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(_read(exchange))
        (await engine.next_request()).answer(200, b'{"text": "Hi"}')
        answer, body = await soon(answering)
        assert body == b'{"text": "Hi"}'
        assert answer.ticket_id == control.tickets[0].ticket_id
        assert answer.content_type == "application/json"
        assert answer.grant == engine.grant
        assert (await control.next_close()).outcome is Outcome.COMPLETED


async def _read(exchange: Exchange):
    async with exchange.answer(WHOLE) as answer:
        return answer, b"".join([chunk async for chunk in answer.chunks])


class NotingControlPlane(FakeControlPlane):
    """Notes in which context each call for a request was made."""

    def __init__(self, *script: Grant) -> None:
        super().__init__(*script)
        self.seen: list[str | None] = []

    async def replica_unroutable(self, replica_id):
        self.seen.append(client.get())
        await super().replica_unroutable(replica_id)

    async def close(self, ticket_id, outcome, usage):
        self.seen.append(client.get())
        await super().close(ticket_id, outcome, usage)


async def test_what_outlives_a_request_is_called_outside_the_context_of_the_client(engine):
    control = NotingControlPlane(engine.grant, engine.grant)
    async with exchange_over(control) as exchange:
        client.set("somebody")
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).break_connection()
        (await engine.next_request()).answer(200, b"{}")
        await soon(answering)
        for _ in range(2):
            await control.next_close()
    assert control.seen == [None, None, None]


async def test_a_refusal_has_its_status_and_the_time_to_come_back():
    control = FakeControlPlane(FULL)
    async with exchange_over(control) as exchange:
        with pytest.raises(ApiError) as caught:
            await drained(exchange, WHOLE)
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (429, "rejected_full", 7)
    assert control.all_closes_seen


async def test_a_client_that_leaves_the_queue_closes_its_ticket():
    control = FakeControlPlane()
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, STREAM))
        await soon(control.queued.wait())
        await _leave(answering)
        assert await control.next_close() == Closed(control.tickets[0].ticket_id, Outcome.CANCELLED, None)


@pytest.mark.parametrize("request_", [STREAM, WHOLE], ids=["stream", "whole"])
async def test_a_client_that_leaves_before_the_first_token_breaks_the_engines_connection(engine, request_):
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, request_))
        request = await engine.next_request()
        await _leave(answering)
        await soon(request.abandoned.wait())
        assert (await control.next_close()).outcome is Outcome.CANCELLED
    assert control.all_closes_seen


async def test_a_client_that_leaves_mid_stream_breaks_the_engines_connection_and_pays_what_was_made(engine):
    control, first = FakeControlPlane(engine.grant), asyncio.Event()
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, STREAM, first))
        request = await engine.next_request()
        request.begin()
        request.send(b"data: 1\n\n")
        await soon(first.wait())
        ticket_id = control.tickets[0].ticket_id
        engine.untold[ticket_id] = Metered(prompt_tokens=3, output_tokens=1)
        await _leave(answering)
        await soon(request.abandoned.wait())
        assert await control.next_close() == Closed(ticket_id, Outcome.CANCELLED, Usage(3, 1))


async def test_a_client_that_leaves_amid_a_whole_answer_breaks_the_engines_connection(engine):
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        request = await engine.next_request()
        request.announce(100)
        request.send(b"{")
        await _leave(answering)
        await soon(request.abandoned.wait())
        assert (await control.next_close()).outcome is Outcome.CANCELLED


async def _leave(answering: asyncio.Task) -> None:
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(answering)


async def test_an_engine_that_dies_before_it_answers_is_replaced_and_the_request_keeps_its_age(engine):
    control = FakeControlPlane(engine.grant, Grant(engine.port, 0.5))
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).break_connection()
        (await engine.next_request()).answer(200, b"{}")
        assert await soon(answering) == b"{}"
        first, second = control.tickets
        assert first.ticket_id != second.ticket_id
        assert replace(first, ticket_id="", moved=True) == replace(second, ticket_id="")
        assert control.unroutable == ["engine-1"]
        closes = {await control.next_close(), await control.next_close()}
    assert closes == {
        Closed(first.ticket_id, Outcome.FAILED, None),
        Closed(second.ticket_id, Outcome.COMPLETED, Usage(0, 0)),
    }


async def test_a_port_where_nobody_listens_is_a_lost_engine(engine):
    control = FakeControlPlane(NOBODY_THERE, engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).answer(200, b"{}")
        assert await soon(answering) == b"{}"
        assert (control.gone, control.unroutable) == (["dead"], [])


async def test_an_engine_whose_head_can_not_be_read_has_failed_and_is_not_lost(engine):
    """aiohttp reads headers of up to 8,190 bytes."""
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).answer(200, b"", metadata="x" * 10_000)
        with pytest.raises(ApiError, match="500 engine_error"):
            await soon(answering)
        assert (await control.next_close()).outcome is Outcome.FAILED
    assert len(control.tickets) == 1
    assert (control.gone, control.unroutable) == ([], [])


async def test_an_engine_without_the_lease_is_unroutable_and_another_is_asked(engine):
    control = FakeControlPlane(engine.grant, engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).answer(403, b"{}")
        (await engine.next_request()).answer(200, b"{}")
        assert await soon(answering) == b"{}"
        assert control.unroutable == ["engine-1"]


async def test_a_scheduler_that_can_not_hear_of_an_unroutable_engine_does_not_fail_the_request(engine):
    control = FakeControlPlane(engine.grant, engine.grant)
    control.scheduler_forgets = True
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).answer(403, b"{}")
        (await engine.next_request()).answer(200, b"{}")
        assert await soon(answering) == b"{}"


async def test_after_a_bounded_number_of_engines_the_client_is_told_to_come_back():
    control = FakeControlPlane(*[NOBODY_THERE] * (ENGINE_ATTEMPTS + 1))
    async with exchange_over(control) as exchange:
        with pytest.raises(ApiError) as caught:
            await soon(drained(exchange, STREAM))
        outcomes = [(await control.next_close()).outcome for _ in range(ENGINE_ATTEMPTS)]
    assert (caught.value.status, caught.value.code) == (503, "engine_lost")
    assert caught.value.retry_after_s
    assert len(control.tickets) == len({ticket.ticket_id for ticket in control.tickets}) == ENGINE_ATTEMPTS
    assert len({ticket.arrived_s for ticket in control.tickets}) == 1
    # The first asks to be let in, the others have been.
    assert [ticket.moved for ticket in control.tickets] == [False] + [True] * (ENGINE_ATTEMPTS - 1)
    assert outcomes == [Outcome.FAILED] * ENGINE_ATTEMPTS


async def test_a_refusal_after_a_lost_engine_is_the_answer():
    control = FakeControlPlane(NOBODY_THERE, Refusal(Outcome.EVICTED_NO_ENGINE, 3))
    async with exchange_over(control) as exchange:
        with pytest.raises(ApiError) as caught:
            await soon(drained(exchange, WHOLE))
    assert (caught.value.status, caught.value.code) == (503, "evicted_no_engine")


async def test_a_stream_whose_engine_dies_ends_with_an_error_event(engine):
    control, first = FakeControlPlane(engine.grant), asyncio.Event()
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, STREAM, first))
        request = await engine.next_request()
        request.begin()
        request.send(b"data: 1\n\n")
        await soon(first.wait())
        request.send(b'data: {"choices": ')
        request.break_connection()
        body = await soon(answering)
        # And nothing of the event that was under way.
        assert body.startswith(b'data: 1\n\ndata: {"error": ')
        assert b'"code": "engine_lost"' in body
        assert body.endswith(b"}\n\n")
        assert (await control.next_close()).outcome is Outcome.FAILED
    assert len(control.tickets) == 1


async def test_a_stream_that_ends_with_the_engines_own_error_has_failed(engine):
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, STREAM))
        request = await engine.next_request()
        request.begin()
        request.send(b'data: 1\n\ndata: {"error": {}}\n\n')
        request.end(Metered(3, 1, failed=True))
        await soon(answering)
        closed = await control.next_close()
        assert (closed.outcome, closed.usage) == (Outcome.FAILED, Usage(3, 1))


async def test_a_whole_answer_that_breaks_off_comes_from_another_engine(engine):
    control = FakeControlPlane(engine.grant, engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        request = await engine.next_request()
        request.announce(100)
        request.send(b"{")
        request.break_connection()
        (await engine.next_request()).answer(200, b"{}")
        assert await soon(answering) == b"{}"
        assert (await control.next_close()).outcome is Outcome.FAILED
        assert (await control.next_close()).outcome is Outcome.COMPLETED


async def test_an_engine_that_died_under_a_request_without_an_answer_is_replaced(engine):
    control = FakeControlPlane(engine.grant, engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, STREAM))
        (await engine.next_request()).answer(ENGINE_DIED_STATUS, b"{}")
        (await engine.next_request()).answer(200, b"{}")
        assert await soon(answering) == b"{}"
        assert len(control.tickets) == 2


@pytest.mark.parametrize("health", [None, 503])
async def test_an_engine_without_a_sign_of_life_is_left_by_a_request_without_an_answer(engine, health):
    async with FakeEngine.started("frozen") as frozen:
        frozen.health = health
        control = FakeControlPlane(frozen.grant, engine.grant)
        async with exchange_over(control, heartbeat_s=BRIEF_S) as exchange:
            answering = asyncio.create_task(drained(exchange, WHOLE))
            await frozen.next_request()
            request = await engine.next_request()
            request.answer(200, b"{}")
            assert await soon(answering) == b"{}"
            assert control.unroutable == ["frozen"]
            assert (await control.next_close()).outcome is Outcome.FAILED
            assert (await control.next_close()).outcome is Outcome.COMPLETED


async def test_a_stream_whose_engine_gives_no_sign_of_life_ends_with_an_error_event(engine):
    control, first = FakeControlPlane(engine.grant), asyncio.Event()
    async with exchange_over(control, heartbeat_s=BRIEF_S) as exchange:
        answering = asyncio.create_task(drained(exchange, STREAM, first))
        request = await engine.next_request()
        request.begin()
        request.send(b"data: 1\n\n")
        await soon(first.wait())
        engine.health = None
        body = await soon(answering)
        assert body.startswith(b"data: 1\n\n")
        assert json.loads(body.removeprefix(b"data: 1\n\ndata: "))["error"]["code"] == "engine_lost"
        assert (await control.next_close()).outcome is Outcome.FAILED


async def test_a_slow_engine_that_lives_is_waited_for(engine):
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control, heartbeat_s=BRIEF_S) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        request = await engine.next_request()
        done, _ = await asyncio.wait({answering}, timeout=4 * BRIEF_S)
        assert not done
        request.answer(200, b"{}")
        assert await soon(answering) == b"{}"
        assert len(control.tickets) == 1


async def test_an_engine_that_falls_silent_mid_stream_is_lost(engine):
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control, silence_s=0.2) as exchange:
        answering = asyncio.create_task(drained(exchange, STREAM))
        request = await engine.next_request()
        request.begin()
        request.send(b"data: 1\n\n")
        assert b"engine_lost" in await soon(answering)
        await soon(request.abandoned.wait())
        assert (await control.next_close()).outcome is Outcome.FAILED


async def test_an_engine_that_still_listens_when_it_was_lost_is_unroutable(engine):
    control = FakeControlPlane(engine.grant, engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).break_connection()
        (await engine.next_request()).answer(200, b"{}")
        await soon(answering)
    assert (control.gone, control.unroutable) == ([], ["engine-1"])


@pytest.mark.parametrize("error", [OSError("no route to host"), TimeoutError()])
async def test_an_engine_whose_machine_does_not_answer_is_unroutable(monkeypatch, error):
    async def connect(host, port):
        raise error

    monkeypatch.setattr("asyncio.open_connection", connect)
    control = FakeControlPlane(NOBODY_THERE, FULL)
    async with exchange_over(control) as exchange:
        with pytest.raises(ApiError, match="429"):
            await soon(drained(exchange, WHOLE))
    assert (control.gone, control.unroutable) == ([], ["dead"])


@pytest.mark.parametrize("tells", [True, False])
async def test_an_answer_that_ends_without_what_it_used_is_asked_for_it(engine, tells):
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        request = await engine.next_request()
        ticket_id = control.tickets[0].ticket_id
        if tells:
            engine.untold[ticket_id] = Metered(3, 5)
        request.answer(200, b"{}", tells=False)
        assert await soon(answering) == b"{}"
        usage = Usage(3, 5) if tells else None
        assert await control.next_close() == Closed(ticket_id, Outcome.COMPLETED, usage)
    assert control.unroutable == []


async def test_an_engine_that_does_not_say_what_was_used_is_waited_for_within_a_bound(engine, monkeypatch):
    monkeypatch.setattr("app.gateway.engines.SETTLE_TIMEOUT_S", BRIEF_S)
    control = FakeControlPlane(engine.grant)
    engine.freezes = True
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        await engine.next_request()
        await _leave(answering)
        assert await control.next_close() == Closed(control.tickets[0].ticket_id, Outcome.CANCELLED, None)
    assert control.unroutable == []


async def test_an_engine_that_dies_before_it_has_said_what_was_used_is_lost(engine):
    control = FakeControlPlane(engine.grant)
    engine.dies = True
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).answer(200, b"{}", tells=False)
        assert await soon(answering) == b"{}"
        assert (await control.next_close()).usage is None
    assert control.unroutable == ["engine-1"]


async def test_the_scheduler_knows_that_an_engine_has_died_before_another_is_asked_for():
    control = FakeControlPlane(NOBODY_THERE, Refusal(Outcome.EVICTED_NO_ENGINE, 3))
    async with exchange_over(control) as exchange:
        with pytest.raises(ApiError, match="503 evicted_no_engine"):
            await soon(drained(exchange, WHOLE))
        assert control.gone == ["dead"]


async def test_a_lease_that_is_taken_back_at_the_last_attempt_leaves_no_ticket_behind(engine):
    control = FakeControlPlane(*[NOBODY_THERE] * (ENGINE_ATTEMPTS - 1), engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).answer(REVOKED_STATUS, b"{}")
        with pytest.raises(ApiError, match="503 engine_lost"):
            await soon(answering)
        closes = [await control.next_close() for _ in range(ENGINE_ATTEMPTS)]
    assert closes[-1] == Closed(control.tickets[-1].ticket_id, Outcome.FAILED, None)


async def test_the_engines_refusal_is_retold_and_counts_as_one(engine):
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, STREAM))
        body = b'{"error": {"message": "stop is too long", "param": "stop", "code": 400}}'
        (await engine.next_request()).answer(400, body)
        with pytest.raises(ApiError) as caught:
            await soon(answering)
        assert (caught.value.status, caught.value.param) == (400, "stop")
        assert (await control.next_close()).outcome is Outcome.ENGINE_REFUSED
    assert len(control.tickets) == 1


@pytest.mark.parametrize(
    ("status", "code", "comes_back"), [(500, "engine_error", False), (503, "engine_busy", True)]
)
async def test_a_failure_inside_the_engine_is_not_tried_again(engine, status, code, comes_back):
    """Nor is a request for which its own queue is full; but the client is told when to come back."""
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).answer(status, b"Traceback: secret")
        with pytest.raises(ApiError) as caught:
            await soon(answering)
        assert (caught.value.status, caught.value.code) == (status, code)
        assert "secret" not in caught.value.message
        assert bool(caught.value.retry_after_s) == comes_back
        assert (await control.next_close()).outcome is Outcome.FAILED
    assert len(control.tickets) == 1


async def test_while_the_scheduler_restarts_the_same_ticket_is_submitted_again(engine):
    restart = ConnectionError("the scheduler restarts")
    control = FakeControlPlane(restart, restart, engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        (await engine.next_request()).answer(200, b"{}")
        assert await soon(answering) == b"{}"
        await control.next_close()
    assert len(control.tickets) == 3
    assert len(set(control.tickets)) == 1


@pytest.mark.parametrize(
    ("deadline_s", "each_takes_s", "attempts"),
    [
        # 0.25 s, 0.5 s, ... of pauses, and not one more when it has been asked for the last time.
        (None, 0.0, 8),
        # Serve's router waits for a scheduler itself.
        (None, 5.0, 3),
        (2.0, 0.0, 4),
    ],
)
async def test_a_scheduler_that_stays_away_is_asked_for_seven_seconds_or_as_long_as_the_ticket_has(
    monkeypatch, deadline_s: float | None, each_takes_s: float, attempts: int
):
    now_s, sleep = 1000.0, asyncio.sleep

    async def passing(delay_s: float) -> None:
        nonlocal now_s
        now_s += delay_s
        await sleep(0)

    class Away(FakeControlPlane):
        async def acquire(self, ticket: Ticket) -> Grant | Refusal:
            nonlocal now_s
            now_s += each_takes_s
            return await super().acquire(ticket)

    monkeypatch.setattr("asyncio.sleep", passing)
    monkeypatch.setattr("app.gateway.exchange.time.time", lambda: now_s)
    control = Away(*[ConnectionError("gone")] * 20)
    async with exchange_over(control, scheduler_retry_s=0.25) as exchange:
        with pytest.raises(ApiError) as caught:
            await soon(drained(exchange, replace(WHOLE, ticket=replace(TICKET, deadline_s=deadline_s))))
        closed = await control.next_close()
    assert (caught.value.status, caught.value.code) == (503, "scheduler_unreachable")
    assert caught.value.message == "The scheduler does not answer. Try again in 5 s."
    assert caught.value.retry_after_s == 5
    assert len(control.tickets) == attempts
    # The first try, those after it, and the last.
    assert now_s - 1000.0 <= each_takes_s + (deadline_s or SCHEDULER_PATIENCE_S) + each_takes_s
    # It may have been granted and the answer lost.
    assert closed == Closed(control.tickets[0].ticket_id, Outcome.FAILED, None)
    assert control.all_closes_seen


async def test_a_lease_that_is_taken_back_is_waited_for_again_by_the_same_ticket(engine):
    control = FakeControlPlane(engine.grant, engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, STREAM))
        (await engine.next_request()).answer(REVOKED_STATUS, b"{}")
        (await engine.next_request()).answer(200, b"data: 1")
        assert await soon(answering) == b"data: 1"
        ticket = control.tickets[0]
        assert control.tickets == [ticket, ticket]
        assert await control.next_close() == Closed(ticket.ticket_id, Outcome.COMPLETED, Usage(0, 0))
    assert control.all_closes_seen
    assert control.unroutable == []


async def test_the_time_to_the_first_token_counts_from_the_arrival(engine):
    control = FakeControlPlane(engine.grant)
    async with exchange_over(control) as exchange:
        answering = asyncio.create_task(drained(exchange, WHOLE))
        request = await engine.next_request()
        first_s = control.tickets[0].arrived_s + 0.5
        request.answer(200, b"{}", Metered(3, 5, first_token_at_s=first_s))
        await soon(answering)
        assert (await control.next_close()).usage.ttft_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("asked", "echoed"),
    [(None, b"default"), ("auto", b"default"), ("standard", b"standard"), ("fast", b"default")],
)
async def test_the_tier_that_is_served_is_echoed_in_the_words_of_the_client(engine, asked, echoed):
    control = FakeControlPlane(*[engine.grant] * 2)
    async with exchange_over(control) as exchange:
        whole = asyncio.create_task(drained(exchange, replace(WHOLE, service_tier=asked)))
        (await engine.next_request()).answer(200, b'{"id":"x","service_tier":null}')
        assert await soon(whole) == b'{"id":"x","service_tier":"' + echoed + b'"}'
        stream = asyncio.create_task(drained(exchange, replace(STREAM, service_tier=asked)))
        (await engine.next_request()).answer(200, b'data: {"id":"x"}\n\ndata: {"id":"x"}\n\n')
        first = b'data: {"service_tier":"' + echoed + b'","id":"x"}\n\n'
        assert await soon(stream) == first + b'data: {"id":"x"}\n\n'


@pytest.mark.parametrize("at_once", [True, False], ids=["short", "long"])
async def test_each_response_tells_the_tier_that_is_served_and_what_it_repeats_stays(
    engine, at_once, monkeypatch
):
    if not at_once:
        monkeypatch.setattr("app.gateway.run.REWRITTEN_AT_ONCE_BYTES", 0)
    path = "/v1/responses"
    repeated = b'"id":"x","metadata":{"service_tier":"auto"},'
    asked, served = (
        repeated + b'"service_tier":"%s","user":"\xc3\xa9"' % tier for tier in (b"auto", b"default")
    )
    delta = b'event: response.output_text.delta\ndata: {"delta":"\\"service_tier\\":"}\n\n'
    stream = b'event: response.created\ndata: {"response":{%s},"type":"response.created"}\n\n'
    last = b'event: response.completed\ndata: {"response":{%s},"type":"response.completed"}\n\n'
    control = FakeControlPlane(*[engine.grant] * 2)
    async with exchange_over(control) as exchange:
        whole = asyncio.create_task(drained(exchange, replace(WHOLE, path=path)))
        (await engine.next_request()).answer(200, b"{%s}" % asked)
        assert await soon(whole) == b"{%s}" % served
        streaming = asyncio.create_task(drained(exchange, replace(STREAM, path=path)))
        request = await engine.next_request()
        request.begin()
        request.send(stream % asked + delta)
        request.send(last % asked)
        request.end()
        assert await soon(streaming) == stream % served + delta + last % served
