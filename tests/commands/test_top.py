"""`app top` against a real HTTP server that gives what the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from app.cli import main
from app.commands.server import KEY_VARIABLE
from app.status.view import to_json
from tests.status.views import busy


@asynccontextmanager
async def serving(status: int, body: bytes, seen: list[str | None]) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("authorization"))
        return web.Response(status=status, body=body, content_type="application/json")

    application = web.Application()
    application.router.add_get("/status.json", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


async def top(status: int, body: bytes) -> tuple[int, list[str | None]]:
    seen: list[str | None] = []
    async with serving(status, body, seen) as url:
        return await asyncio.to_thread(main, ["top", "--once", "--url", url]), seen


async def test_it_asks_with_the_key_and_prints_the_state(capsys, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    assert await top(200, to_json(busy())) == (0, ["Bearer secret"])
    assert "llama-3-70b-instruct" in capsys.readouterr().out


async def test_no_proxy_stands_between_it_and_this_machine(capsys, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    code, _ = await top(200, to_json(busy()))
    assert code == 0


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "code": "x", "param": None, "type": "x"}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, error("path"), "shows no status here: `status` in its configuration says who may see it."),
        (401, error("a key is needed"), f"rejected the API key: a key is needed Set {KEY_VARIABLE}."),
        (503, error("The scheduler does not answer."), "It can't answer now: The scheduler does not answer."),
        (502, b"<html>", "It refused the request (502): <html>"),
        (200, b'{"model": 3}', "is of another version than this command."),
    ],
)
async def test_what_is_wrong_is_said_in_plain_words(capsys, status, body, words):
    code, _ = await top(status, body)
    assert code == 1
    assert words in capsys.readouterr().err
