"""When an engine is lost, and what that ends."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from app.gateway.engines import is_lost
from app.gateway.heartbeat import Lifeline
from tests.fakes import FakeEngine, dead_port, soon

BRIEF_S = 0.1
EVENT = b"data: 1\n\n"


@pytest.mark.parametrize(("health", "lost"), [(200, False), (503, True), (None, True)])
async def test_an_engine_is_lost_that_is_ill_or_says_nothing(engine, http, health, lost):
    engine.health = health
    assert await is_lost(http, engine.port, 10.0 if health else BRIEF_S) is lost


async def test_an_engine_that_takes_no_more_connections_may_still_end_what_it_has(http):
    assert not await is_lost(http, dead_port(), 10.0)


async def begun(engine: FakeEngine, http: aiohttp.ClientSession, *, whole: bool) -> aiohttp.ClientResponse:
    """A stream that has begun; all of it is here where it is `whole`."""
    posting = asyncio.ensure_future(http.post(engine.port.url("/v1/completions")))
    request = await engine.next_request()
    request.begin()
    request.send(EVENT)
    if whole:
        request.end()
    response = await soon(posting)
    if whole:
        await soon(response.content.wait_eof())
    return response


@pytest.mark.parametrize("first", ["held", "cut"])
async def test_a_stream_ends_with_its_engine(engine, http, first):
    lifeline, response = Lifeline(), await begun(engine, http, whole=False)
    for step in (lifeline.cut, lambda: lifeline.holds(response))[:: -1 if first == "held" else 1]:
        step()
    with pytest.raises(aiohttp.ClientError, match="the engine is lost"):
        await response.content.readany()


async def test_a_stream_that_is_here_whole_outlives_its_engine(engine, http):
    lifeline, response = Lifeline(), await begun(engine, http, whole=True)
    lifeline.holds(response)
    lifeline.cut()
    assert (await soon(response.content.read())).startswith(EVENT)


async def test_what_one_stream_ends_with_is_kept_by_no_other(engine, http):
    """An exception holds the frames that it has passed, and so the requests in them."""
    errors = []
    for _ in range(2):
        lifeline, response = Lifeline(), await begun(engine, http, whole=False)
        lifeline.holds(response)
        lifeline.cut()
        with pytest.raises(aiohttp.ClientError) as caught:
            await response.content.readany()
        errors.append(caught.value)
    assert errors[0] is not errors[1]
