from __future__ import annotations

import asyncio

import pytest

from app.gateway.shared import Shared
from tests.fakes import soon


class Window:
    """Looks that the test ends, and a clock that it sets."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.count = 0
        self.shared = Shared(self._look, 1.0, lambda: self.now_s)
        self._looks: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()

    async def _look(self) -> str:
        self.count += 1
        look: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._looks.put_nowait(look)
        return await look

    def askers(self, count: int) -> list[asyncio.Task[str]]:
        return [asyncio.create_task(self.shared.get()) for _ in range(count)]

    async def look(self) -> asyncio.Future[str]:
        """The next one that has begun."""
        return await soon(self._looks.get())


async def test_all_who_ask_at_once_and_soon_after_share_one_look():
    window = Window()
    first, second = window.askers(2)
    (await window.look()).set_result("a")
    assert [await soon(first), await soon(second)] == ["a", "a"]
    window.now_s += 0.99
    assert await soon(window.shared.get()) == "a"
    assert window.count == 1


async def test_what_is_older_is_looked_at_anew():
    window = Window()
    [first] = window.askers(1)
    (await window.look()).set_result("a")
    await soon(first)
    window.now_s += 1.0
    [again] = window.askers(1)
    (await window.look()).set_result("b")
    assert await soon(again) == "b"


async def test_an_asker_that_goes_away_does_not_end_the_look_of_the_others():
    window = Window()
    leaver, stayer = window.askers(2)
    look = await window.look()
    leaver.cancel()
    await asyncio.sleep(0)
    look.set_result("a")
    assert await soon(stayer) == "a"


async def test_newest_never_waits_and_outlives_a_look_that_fails():
    window = Window()
    assert window.shared.newest() is None
    [asker] = window.askers(1)
    (await window.look()).set_result("a")
    await soon(asker)
    assert window.shared.newest() == "a"
    window.now_s += 1.0
    [failing] = window.askers(1)
    (await window.look()).set_exception(ConnectionError("gone"))
    with pytest.raises(ConnectionError):
        await soon(failing)
    assert window.shared.newest() == "a"
