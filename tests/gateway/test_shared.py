from __future__ import annotations

import asyncio

import pytest

from app.gateway.shared import Shared
from tests.fakes import soon


class Window:
    """A look that the test ends, and a clock that it sets."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.looks: list[asyncio.Future[str]] = []
        self.shared = Shared(self._look, 1.0, lambda: self.now_s)

    async def _look(self) -> str:
        self.looks.append(asyncio.get_running_loop().create_future())
        return await self.looks[-1]

    async def askers(self, count: int) -> list[asyncio.Task[str]]:
        tasks = [asyncio.create_task(self.shared.get()) for _ in range(count)]
        while not self.looks:
            await asyncio.sleep(0)
        return tasks


async def test_all_who_ask_at_once_and_soon_after_share_one_look():
    window = Window()
    first, second = await window.askers(2)
    window.looks[0].set_result("a")
    assert [await soon(first), await soon(second)] == ["a", "a"]
    window.now_s += 0.99
    assert await soon(window.shared.get()) == "a"
    assert len(window.looks) == 1


async def test_what_is_older_is_looked_at_anew():
    window = Window()
    [first] = await window.askers(1)
    window.looks[0].set_result("a")
    await soon(first)
    window.now_s += 1.0
    again = asyncio.create_task(window.shared.get())
    while len(window.looks) < 2:
        await asyncio.sleep(0)
    window.looks[1].set_result("b")
    assert await soon(again) == "b"


async def test_an_asker_that_goes_away_does_not_end_the_look_of_the_others():
    window = Window()
    leaver, stayer = await window.askers(2)
    leaver.cancel()
    await asyncio.sleep(0)
    window.looks[0].set_result("a")
    assert await soon(stayer) == "a"


async def test_newest_never_waits_and_outlives_a_look_that_fails():
    window = Window()
    assert window.shared.newest() is None
    [asker] = await window.askers(1)
    window.looks[0].set_result("a")
    await soon(asker)
    assert window.shared.newest() == "a"
    window.now_s += 1.0
    [failing] = await window.askers(1)
    while len(window.looks) < 2:
        await asyncio.sleep(0)
    window.looks[1].set_exception(ConnectionError("gone"))
    with pytest.raises(ConnectionError):
        await soon(failing)
    assert window.shared.newest() == "a"
