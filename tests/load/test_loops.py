"""The client against servers that are nothing but sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import psutil
import pytest

from app.load.loops import ClosedLoop, OpenLoop, load_client, run_load
from app.load.streams import (
    BROKEN,
    COMPLETED,
    FAILED,
    GAVE_UP,
    REFUSED,
    UNREACHABLE,
    Call,
    chat,
    completion,
)
from benchmarks.null import null_server

COMPLETIONS = "/v1/completions"


def call(number: int = 0, tokens: int = 5, at_s: float = 0.0) -> Call:
    return Call(f"c{number}", COMPLETIONS, completion("m", "p", tokens), at_s, "tenant-01", "batch", "secret")


@contextlib.asynccontextmanager
async def canned(*parts: bytes, end: bool = True, seen: list[bytes] | None = None) -> AsyncIterator[str]:
    """A server with one answer, written in parts; without `end` it then says nothing more."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if seen is not None:
            seen.append(request)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)
        if end:
            writer.close()
        else:
            await reader.read()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", "connection: close", *headers, "", ""]).encode()


def event(content: object) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


async def one(url: str, timeout_s: float = 5.0, given: Call | None = None):
    (answer,) = await OpenLoop([given or call()], timeout_s).run(url)
    return answer


async def test_round_trip_with_the_null_server():
    async with null_server() as url:
        answers = await ClosedLoop([call(number) for number in range(6)], streams=2).run(url)
    assert {answer.request_id for answer in answers} == {f"c{number}" for number in range(6)}
    for answer in answers:
        assert (answer.outcome, answer.status) == (COMPLETED, 200)
        assert (answer.output_tokens, len(answer.gaps_s)) == (5, 4)
        assert (answer.tenant, answer.class_name) == ("tenant-01", "batch")
        assert answer.predicted_ttft_s == 0.005
        assert 0 < answer.ttft_s <= answer.ended_s


async def test_a_process_of_its_own_brings_the_answers_back():
    async with null_server() as url:
        load = await asyncio.to_thread(run_load, url, ClosedLoop([call()], streams=1))
    assert load.output_tokens == 5
    assert load.client_cpu_s > 0


def test_a_client_is_there_before_its_load():
    """What a server spends while the client starts is not what the load costs."""

    def clients() -> int:
        return sum("spawn_main" in " ".join(one.cmdline()) for one in psutil.Process().children())

    before = clients()
    with load_client():
        assert clients() == before + 1
    assert clients() == before


async def test_open_loop_waits_for_nobody():
    # The first answer never ends: a closed loop would stay there.
    async with canned(head("200 OK"), end=False) as url:
        answers = await OpenLoop([call(number, at_s=number / 20) for number in range(4)], 0.3).run(url)
    assert [answer.outcome for answer in answers] == [GAVE_UP] * 4
    starts_s = [answer.due_s - answers[0].due_s for answer in answers]
    assert starts_s == pytest.approx([0, 0.05, 0.10, 0.15])
    # However late the machine is: all were sent before the first was given up.
    gave_up_s = answers[0].due_s + answers[0].ended_s
    assert all(answer.due_s + answer.sent_late_s < gave_up_s for answer in answers)


async def test_closed_loop_ends_with_its_duration():
    async with null_server(gap_s=0.02) as url:
        answers = await ClosedLoop([call(n) for n in range(100)], streams=1, duration_s=0.15).run(url)
    assert 1 <= len(answers) <= 3


async def test_clients_of_a_closed_loop_begin_one_after_the_other():
    # The first is still busy when the last begins.
    async with null_server(gap_s=0.2) as url:
        loop = ClosedLoop([call(number) for number in range(4)], streams=4, apart_s=0.1)
        answers = await loop.run(url)
    starts_s = sorted(answer.due_s for answer in answers)
    # Three tenths of a second, less what the first is late by on a busy machine.
    assert starts_s[-1] - starts_s[0] >= 0.15


async def test_a_refusal_has_its_time_code_and_hint():
    body = json.dumps({"error": {"code": "rejected_full", "message": "full"}}).encode()
    refusal = head("429 Too Many Requests", "retry-after: 7", f"content-length: {len(body)}") + body
    async with canned(refusal) as url:
        began_s = time.perf_counter()
        answer = await one(url)
        took_s = time.perf_counter() - began_s
    assert (answer.outcome, answer.status, answer.code) == (REFUSED, 429, "rejected_full")
    assert answer.retry_after_s == 7
    assert answer.ttft_s is None
    assert 0 < answer.ended_s < took_s


async def test_a_refusal_may_be_the_only_event_of_a_stream():
    async with canned(head("200 OK"), event({"error": {"code": 503}}), b"data: [DONE]\n\n") as url:
        assert (await one(url)).outcome == REFUSED


async def test_vllms_word_for_a_full_queue_is_a_refusal():
    body = json.dumps({"error": {"code": 503, "type": "ServiceUnavailableError"}}).encode()
    async with canned(head("503 Service Unavailable", f"content-length: {len(body)}") + body) as url:
        assert (await one(url)).outcome == REFUSED


@pytest.mark.parametrize("code", ["rejected_no_engine", "evicted_no_engine", "engine_lost", ""])
async def test_a_503_that_says_that_nobody_is_there_is_a_failure(code: str):
    # Without a code: HAProxy's own page.
    body = json.dumps({"error": {"code": code}}).encode() if code else b"<html>No server is available"
    async with canned(head("503 Service Unavailable", f"content-length: {len(body)}") + body) as url:
        answer = await one(url)
    assert (answer.outcome, answer.status, answer.code) == (FAILED, 503, code)


async def test_a_refused_client_returns_once():
    seen: list[bytes] = []
    refusal = head("503 Service Unavailable", "retry-after: 0", "content-length: 0")
    async with canned(refusal, seen=seen) as url:
        first, second = await OpenLoop([call()], 5.0, returns=True).run(url)
    assert (first.returned, second.returned) == (False, True)
    assert len(seen) == 2


async def test_a_stream_without_its_usage_is_broken():
    token = event({"choices": [{"text": "a"}]})
    async with canned(head("200 OK"), token, token) as url:
        answer = await one(url)
    assert (answer.outcome, answer.output_tokens, len(answer.gaps_s)) == (BROKEN, 2, 1)


async def test_bad_requests_and_closed_ports_are_no_refusals():
    async with canned(head("400 Bad Request", "content-length: 0")) as url:
        assert (await one(url)).outcome == FAILED
    assert (await one(url)).outcome == UNREACHABLE


async def test_the_role_of_a_chat_is_no_token():
    role = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    token = event({"choices": [{"delta": {"content": "Hi"}}]})
    usage = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    given = Call("c", "/v1/chat/completions", chat("m", "p", 2))
    async with canned(head("200 OK"), role, token, token + usage, b"data: [DONE]\n\n") as url:
        answer = await one(url, given=given)
    assert (answer.outcome, answer.output_tokens, len(answer.gaps_s)) == (COMPLETED, 2, 1)
    assert answer.ttft_s > 0.015


async def test_an_event_may_come_in_pieces():
    token = event({"choices": [{"text": "a"}]})
    usage = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
    async with canned(head("200 OK"), token[:9], token[9:], usage[:20], usage[20:]) as url:
        answer = await one(url)
    assert (answer.outcome, answer.output_tokens, answer.gaps_s) == (COMPLETED, 1, [])
    assert answer.tpot_s is None
