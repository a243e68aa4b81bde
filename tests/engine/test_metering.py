"""Tokens that are joined in a crowd, without an engine behind them."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes import WAIT_S, soon

metering = pytest.importorskip("app.engine.metering")


class Joining(metering.MeteredEngine):
    def __init__(self, coalesce_s: float) -> None:
        self.coalesce_s = coalesce_s
        self._joining = {}

    def __del__(self) -> None:
        """vLLM's ends an engine."""


async def test_tokens_wait_for_others_until_the_time_is_up():
    engine = Joining(0.01)
    await soon(engine._join("a"))
    assert not engine._joining


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
