"""What a run is told of its generations and embeddings, without an engine behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.engine import metering
from app.engine.guard import current_run
from app.engine.leases import LiveLeases, Run
from tests.fakes import WAIT_S, soon


class Joining(metering.MeteredEngine):
    def __init__(self, coalesce_s: float) -> None:
        self.coalesce_s = coalesce_s
        self._joining = {}
        self._flush = None

    def __del__(self) -> None:
        """vLLM's ends an engine."""


async def test_tokens_wait_for_others_until_the_time_is_up():
    engine = Joining(0.01)
    await soon(engine._join("a"))
    assert not engine._joining


async def test_what_has_waited_less_leaves_with_the_others_all_the_same():
    engine = Joining(0.2)
    first = asyncio.create_task(engine._join("a"))
    await asyncio.sleep(0)
    flush = engine._flush
    second = asyncio.create_task(engine._join("b"))
    await asyncio.sleep(0)
    assert engine._flush is flush
    await soon(first)
    await asyncio.sleep(0)
    assert second.done()
    again = asyncio.create_task(engine._join("a"))
    await asyncio.sleep(0)
    assert not again.done()
    await soon(again)


async def test_the_end_of_a_request_ends_its_wait_and_no_other():
    engine = Joining(2 * WAIT_S)
    first, second = (asyncio.create_task(engine._join(name)) for name in "ab")
    await asyncio.sleep(0)
    engine.has_finished("never seen")
    engine.has_finished("a")
    await soon(first)
    assert not second.done()
    second.cancel()
    await asyncio.wait({second})
    assert not engine._joining


@pytest.fixture
def run() -> Run:
    run = LiveLeases().attach("a", priority=2)
    assert run is not None
    return run


async def embedded(run: Run | None) -> list[object]:
    """What comes of three tokens whose body asks for the most urgent priority there is."""
    token = current_run.set(run)
    try:
        return [output async for output in Joining(0.0).encode("Hi", None, "e", priority=-9)]
    finally:
        current_run.reset(token)


async def test_an_embedding_has_its_class_priority_and_is_counted(monkeypatch, run):
    priorities = []

    async def encode(self, prompt, params, request_id, *, priority) -> AsyncIterator[object]:
        priorities.append(priority)
        yield metering.PoolingRequestOutput(request_id, None, [1, 2, 3], 0, finished=True)

    monkeypatch.setattr(metering.AsyncLLM, "encode", encode)
    assert [output.request_id for output in await embedded(run)] == ["e"]
    assert (priorities, run.metered.prompt_tokens, run.orphaned) == ([2], 3, False)
    # One that no lease covers: vLLM's own.
    assert len(await embedded(None)) == 1
    assert (priorities, run.metered.prompt_tokens) == ([2, -9], 3)


def test_a_request_that_comes_to_an_engine_that_has_died_is_orphaned(run):
    token = current_run.set(run)
    try:
        assert isinstance(Joining(0.0).dead_error, metering.EngineDeadError)
    finally:
        current_run.reset(token)
    assert run.orphaned


async def test_an_embedding_whose_engine_dies_says_so(monkeypatch, run):
    async def encode(self, prompt, params, request_id, *, priority) -> AsyncIterator[object]:
        raise metering.EngineDeadError
        yield

    monkeypatch.setattr(metering.AsyncLLM, "encode", encode)
    with pytest.raises(metering.EngineDeadError):
        await embedded(run)
    assert run.orphaned
