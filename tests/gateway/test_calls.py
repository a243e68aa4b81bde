"""The Python face."""

from __future__ import annotations

import asyncio
import json
from hashlib import sha256

import aiohttp
import pytest

from app.contract import Metered, Refusal
from app.flow.outcome import Outcome
from app.flow.ticket import Usage
from app.gateway.calls import CallFace
from app.gateway.errors import ApiError
from app.gateway.exchange import Exchange
from app.gateway.tenants import ApiKeys
from tests.fakes import TIERS, FakeControlPlane, soon, window

PATH = "/v1/completions"
BODY = {"model": "tiny", "prompt": "Hi"}


def face_over(
    control: FakeControlPlane, http: aiohttp.ClientSession, reader_stall_s: float = 60.0, **keys: list[str]
) -> CallFace:
    keyed = ApiKeys(keys, open_without_keys=not keys)
    return CallFace(Exchange(control, http, TIERS, 60.0, 60.0), window(), keyed, reader_stall_s)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_nobody_expected_tells_nothing_of_the_request(http, caplog, stream: bool):
    face = face_over(FakeControlPlane(), http)

    def fails(*_: object) -> None:
        raise RuntimeError("the prompt is: secret")

    face._exchange.answer = fails
    answered = face.stream(PATH, BODY, None).__anext__() if stream else face.call(PATH, BODY, None)
    with pytest.raises(ApiError) as raised:
        await answered
    assert (raised.value.status, raised.value.code) == (500, "internal_error")
    assert raised.value.__suppress_context__
    assert "secret" not in f"{raised.value}{caplog.text}"
    assert "RuntimeError in" in caplog.text


async def test_a_call_answers_with_the_whole_answer(engine, http):
    face = face_over(FakeControlPlane(engine.grant), http)
    calling = asyncio.create_task(face.call(PATH, {**BODY, "stream": True}, None))
    request = await engine.next_request()
    sent = json.loads(request.body)
    assert sent.pop("cache_salt")
    assert sent == {**BODY, "stream": False}
    request.answer(200, b'{"text": "Ho"}')
    assert await soon(calling) == {"text": "Ho"}


async def test_a_stream_gives_each_chunk_as_it_comes(engine, http):
    face = face_over(FakeControlPlane(engine.grant), http)
    stream = face.stream(PATH, BODY, None)
    first = asyncio.ensure_future(anext(stream))
    request = await engine.next_request()
    assert json.loads(request.body)["stream"] is True
    request.begin()
    request.send(b'data: {"n": 1}\n\ndata: {"n"')
    assert await soon(first) == {"n": 1}
    request.send(b": 2}\n\ndata: [DONE]\n\n")
    request.end()
    assert [chunk async for chunk in stream] == [{"n": 2}]


async def test_a_stream_that_breaks_raises_after_what_had_come(engine, http):
    face = face_over(FakeControlPlane(engine.grant), http)
    stream = face.stream(PATH, BODY, None)
    first = asyncio.ensure_future(anext(stream))
    request = await engine.next_request()
    request.begin()
    request.send(b'data: {"n": 1}\n\n')
    assert await soon(first) == {"n": 1}
    request.break_connection()
    with pytest.raises(ApiError) as caught:
        await soon(anext(stream))
    assert (caught.value.status, caught.value.code) == (503, "engine_lost")
    assert caught.value.retry_after_s


async def test_an_error_event_of_the_engines_own_is_raised_and_counts_as_a_failure(engine, http):
    control = FakeControlPlane(engine.grant)
    stream = face_over(control, http).stream(PATH, BODY, None)
    first = asyncio.ensure_future(anext(stream))
    request = await engine.next_request()
    request.begin()
    request.send(b'data: {"error": {"message": "Oh.", "code": "engine_error"}}\n\n')
    request.end(Metered(3, 1, failed=True))
    with pytest.raises(ApiError, match=r"500 engine_error: Oh\."):
        await soon(first)
    closed = await control.next_close()
    assert (closed.outcome, closed.usage) == (Outcome.FAILED, Usage(3, 1))


async def test_a_body_has_the_bytes_that_it_has_over_http(engine, http):
    control = FakeControlPlane(engine.grant)
    calling = asyncio.create_task(face_over(control, http).call(PATH, {**BODY, "prompt": "日本"}, None))
    (await engine.next_request()).answer(200, b"{}")
    await soon(calling)
    body = '{"model": "tiny", "prompt": "日本", "stream": false}'.encode()
    assert control.tickets[0].size_bytes == len(body)


async def test_options_of_a_stream_are_dropped_where_there_is_none(engine, http):
    face = face_over(FakeControlPlane(engine.grant, engine.grant), http)
    body = {**BODY, "stream_options": {"include_usage": True}}
    calling = asyncio.create_task(face.call(PATH, body, None))
    request = await engine.next_request()
    assert "stream_options" not in json.loads(request.body)
    request.answer(200, b"{}")
    await soon(calling)
    first = asyncio.ensure_future(anext(face.stream(PATH, body, None)))
    request = await engine.next_request()
    assert json.loads(request.body)["stream_options"] == body["stream_options"]
    request.begin()
    request.send(b"data: {}\n\n")
    await soon(first)


async def test_a_caller_that_stops_reading_breaks_the_engines_connection(engine, http):
    control = FakeControlPlane(engine.grant)
    stream = face_over(control, http).stream(PATH, BODY, None)
    first = asyncio.ensure_future(anext(stream))
    request = await engine.next_request()
    request.begin()
    request.send(b'data: {"n": 1}\n\n')
    await soon(first)
    await stream.aclose()
    await soon(request.abandoned.wait())
    assert (await control.next_close()).outcome is Outcome.CANCELLED


async def test_a_caller_that_stands_still_keeps_no_place(engine, http):
    """Nobody asks for the next part, so that this end of the stream never runs: a timer ends it."""
    control = FakeControlPlane(engine.grant)
    stream = face_over(control, http, reader_stall_s=0.05).stream(PATH, BODY, None)
    first = asyncio.ensure_future(anext(stream))
    request = await engine.next_request()
    request.begin()
    request.send(b'data: {"n": 1}\n\n')
    await soon(first)
    await soon(request.abandoned.wait())
    assert (await control.next_close()).outcome is Outcome.CANCELLED
    with pytest.raises(ApiError) as caught:
        await soon(anext(stream))
    assert (caught.value.status, caught.value.code, caught.value.retryable) == (408, "reader_stalled", False)
    assert control.all_closes_seen


async def test_refusals_are_the_same_as_over_http(http):
    control = FakeControlPlane(Refusal(Outcome.REJECTED_FULL, 7))
    with pytest.raises(ApiError) as caught:
        await face_over(control, http).call(PATH, BODY, None)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 7)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "tiny"}, "prompt"),
        ({**BODY, "temperature": float("nan")}, "body"),
        ({**BODY, "stop": {"a set"}}, "body"),
        ({**BODY, "prompt": "\ud800"}, "body"),
        ([BODY], "body"),
    ],
    ids=["missing", "NaN", "a set", "half a surrogate pair", "a list"],
)
async def test_bad_input_takes_no_lease(http, body, param):
    control = FakeControlPlane()
    face = face_over(control, http)
    with pytest.raises(ApiError) as caught:
        await face.call(PATH, body, None)
    with pytest.raises(ApiError):
        await anext(face.stream(PATH, body, None))
    assert (caught.value.status, caught.value.param) == (400, param)
    assert control.tickets == []


async def test_a_call_needs_the_same_key_as_over_http(engine, http):
    control = FakeControlPlane(engine.grant)
    face = face_over(control, http, blue=[sha256(b"blue's").hexdigest()])
    unknown = [(key, "invalid_api_key") for key in ("red's", "", b"blue's", 7, ["blue's"], "\ud800")]
    for key, code in [(None, "missing_api_key"), *unknown]:
        with pytest.raises(ApiError) as caught:
            await face.call(PATH, BODY, key)
        assert (caught.value.status, caught.value.code) == (401, code)
    calling = asyncio.create_task(face.call(PATH, BODY, "blue's"))
    (await engine.next_request()).answer(200, b"{}")
    await soon(calling)
    assert [ticket.tenant for ticket in control.tickets] == ["blue"]
