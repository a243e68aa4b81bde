"""The terminal chat over a real HTTP server that the test scripts."""

from __future__ import annotations

import argparse
import asyncio
import io
import json

import openai
import pytest
from rich.console import Console

from app.commands.chat import Talk, client_of, pace
from app.commands.server import Server
from app.printable import printable
from tests.fakes import FakeEngine, soon


def event(text: str) -> bytes:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "tiny"}
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n".encode()


def usage(tokens: int) -> bytes:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "tiny", "choices": []}
    counts = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}
    return f"data: {json.dumps(chunk | {'usage': counts})}\n\ndata: [DONE]\n\n".encode()


def refusal(code: str, message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "param": None, "code": code}}).encode()


class Room:
    """A talk whose screen can be read."""

    def __init__(self, engine: FakeEngine, **options: object) -> None:
        url = engine.port.url("")
        client = client_of(Server(url, None))
        arguments = argparse.Namespace(**{"max_tokens": 9, "tier": None, "system": None} | options)
        self._engine = engine
        self._screen = io.StringIO()
        console = Console(file=self._screen, width=200)
        self._talk = Talk(client, Server(url, None), "tiny", arguments, console)

    @property
    def screen(self) -> str:
        return self._screen.getvalue()

    async def say(self, text: str, *answers: tuple[int, bytes]) -> list[dict]:
        """The bodies that were sent; an answer with status 200 is a stream."""
        said = asyncio.create_task(asyncio.to_thread(self._talk.say, text))
        bodies = []
        for status, body in answers:
            request = await self._engine.next_request()
            bodies.append(json.loads(request.body))
            if status != 200:
                request.answer(status, body)
                continue
            request.begin()
            request.send(body)
            request.end()
        await soon(said)
        return bodies


@pytest.fixture
async def engine():
    async with FakeEngine.started() as engine:
        yield engine


async def test_an_answer_is_shown_and_remembered(engine):
    room = Room(engine, system="Be brief.", tier="priority")
    [first] = await room.say("Hi", (200, event("Hel") + event("lo") + usage(2)))
    assert first["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert (first["service_tier"], first["max_tokens"]) == ("priority", 9)
    assert "tiny Hello\n" in room.screen
    assert "2 tokens" in room.screen
    [second] = await room.say("More", (200, event("!") + usage(1)))
    assert [message["content"] for message in second["messages"]] == ["Be brief.", "Hi", "Hello", "More"]


async def test_a_refusal_is_told_in_plain_words_and_forgotten(engine):
    room = Room(engine)
    await room.say("Hi", (429, refusal("rejected_deadline", "The deadline can't be met. Try again in 3 s.")))
    assert "It is busy: The deadline can't be met. Try again in 3 s." in room.screen
    [body] = await room.say("Again", (200, event("Yes") + usage(1)))
    assert [message["content"] for message in body["messages"]] == ["Again"]


async def test_a_stream_that_breaks_off_says_why(engine):
    room = Room(engine)
    broken = event("Hel") + b"data: " + refusal("engine_lost", "The engine failed.") + b"\n\n"
    await room.say("Hi", (200, broken))
    assert "The answer broke off: The engine failed." in room.screen


async def test_a_talk_that_is_too_long_loses_its_oldest_part(engine):
    room = Room(engine)
    await room.say("one", (200, event("1") + usage(1)))
    await room.say("two", (200, event("2") + usage(1)))
    too_long = (400, refusal("context_length_exceeded", "messages: 70 tokens, the model takes 64"))
    _, again = await room.say("three", too_long, (200, event("3") + usage(1)))
    assert [message["content"] for message in again["messages"]] == ["two", "2", "three"]


async def test_a_question_that_is_too_long_by_itself_is_refused_once(engine):
    room = Room(engine)
    await room.say("x", (400, refusal("context_length_exceeded", "messages: 70 tokens, the model takes 64")))
    assert "It refused the request (400): messages: 70 tokens" in room.screen


async def test_no_proxy_stands_between_it_and_this_machine(engine, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    room = Room(engine)
    await room.say("Hi", (200, event("Hello") + usage(1)))
    assert "tiny Hello" in room.screen


@pytest.mark.parametrize(
    ("url", "obeys"),
    [
        ("http://127.0.0.1:8000", False),
        ("http://[::1]:8000/llm", False),
        ("http://localhost", False),
        ("http://10.0.0.1:8000", True),
        ("https://llm.example.com", True),
    ],
)
def test_a_proxy_of_the_environments_is_for_other_machines(url, obeys):
    assert Server(url, None).obeys_proxies == obeys


async def test_where_nobody_listens_the_way_out_is_named(engine):
    room = Room(engine)
    room._talk._client = openai.OpenAI(base_url="http://127.0.0.1:1/v1", api_key="x", max_retries=0)
    await room.say("Hi")
    assert "Nobody answers at http://127.0.0.1" in room.screen


def test_what_would_steer_the_terminal_is_left_out():
    assert printable("a\x1b[2Jb\x07\u202ec\nd\té✓") == "a[2Jbc\nd\té✓"


def test_the_pace_leaves_out_the_first_token():
    assert pace(0.25, 2.0, 21) == "first token after 0.25 s, 21 tokens at 10 a second"
    assert pace(0.25, 0.0, 1) == "first token after 0.25 s, 1 tokens"
