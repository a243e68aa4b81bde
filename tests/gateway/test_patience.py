"""How long an answer waits for its client; what a face makes of it is in test_http.py."""

from __future__ import annotations

import asyncio
import math

import pytest

from app.gateway import patience
from app.gateway.patience import Patience, ReaderStalledError
from tests.fakes import soon

BRIEF_S = 0.05
MESSAGE = {"type": "http.response.body", "body": b"1"}


async def taken(message: object) -> None:
    """A client that reads."""


async def never(message: object) -> None:
    await asyncio.Event().wait()


async def test_a_client_that_reads_may_take_any_time_in_all(monkeypatch):
    """What counts is how long the answer has waited for it."""
    monkeypatch.setattr(patience, "STALLS_IN_ALL", 1)
    read = asyncio.Event()

    async def reading(message: object) -> None:
        await read.wait()

    async with Patience(reading, BRIEF_S) as patient:
        await asyncio.sleep(1.5 * BRIEF_S)
        sending = asyncio.create_task(patient.send(MESSAGE))
        await asyncio.sleep(0)
        # The look that may come at any time comes now.
        patient._watch._timer.cancel()
        patient._watch._look()
        read.set()
        await sending


async def test_a_stall_ends_the_block_whenever_it_begins():
    async def stalled(before_s: float) -> float:
        loop = asyncio.get_running_loop()
        since_s = math.nan
        try:
            async with Patience(never, BRIEF_S) as patient:
                await asyncio.sleep(before_s)
                since_s = loop.time()
                await patient.send(MESSAGE)
        except ReaderStalledError:
            return loop.time() - since_s
        raise AssertionError("it was not let go")

    waited_s = await soon(asyncio.gather(*(stalled(part * BRIEF_S) for part in (0.0, 0.5, 1.5))))
    assert min(waited_s) >= 0.99 * BRIEF_S


async def test_without_a_bound_it_waits_for_ever():
    async def block() -> None:
        async with Patience(never, math.inf) as patient:
            await patient.send(MESSAGE)

    waiting = asyncio.create_task(block())
    done, _ = await asyncio.wait({waiting}, timeout=2 * BRIEF_S)
    assert not done
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()


@pytest.mark.parametrize("error", [TimeoutError, ValueError])
async def test_what_the_block_raises_is_not_the_clients_stall(error):
    with pytest.raises(error):
        async with Patience(taken, BRIEF_S):
            raise error


async def test_the_end_of_the_block_leaves_no_timer():
    async with Patience(taken, BRIEF_S) as patient:
        await patient.send(MESSAGE)
    await asyncio.sleep(2 * BRIEF_S)
    # A look after the end would cut what this task does next.
    assert asyncio.current_task().cancelling() == 0
    assert patient._watch._timer.cancelled()
