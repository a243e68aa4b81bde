"""The load client: closed loop (so many streams at a time) and open loop (arrivals that wait for nobody).

`load_client` gives it a process of its own, so that what a benchmark does beside costs the streams nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import inf
from typing import Any

import uvloop

from app.load.streams import Answer, Call, send

Told = Callable[[Answer], None]

# The clients of an open loop are made before the first of them is due.
LEAD_S = 0.2


@dataclass(frozen=True, slots=True)
class Load:
    """The answers in the order in which their calls ended, and what the client itself cost."""

    answers: list[Answer]
    elapsed_s: float
    client_cpu_s: float

    @property
    def output_tokens(self) -> int:
        return sum(answer.output_tokens for answer in self.answers)


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`streams` clients; each sends its next call when the last one has ended, for `duration_s` at most.

    They begin one after the other, `apart_s` apart: all at once are a burst. `told` hears of each answer when
    it ends.
    """

    calls: Sequence[Call]
    streams: int
    duration_s: float = inf
    timeout_s: float = 600.0
    told: Told | None = None
    apart_s: float = 0.0

    async def run(self, url: str) -> list[Answer]:
        waiting = iter(self.calls)
        end_s = time.perf_counter() + self.duration_s
        clients = [self._client(url, waiting, number * self.apart_s, end_s) for number in range(self.streams)]
        return [answer for answers in await asyncio.gather(*clients) for answer in answers]

    async def _client(self, url: str, waiting: Iterator[Call], after_s: float, end_s: float) -> list[Answer]:
        await asyncio.sleep(after_s)
        answers = []
        while (now_s := time.perf_counter()) < end_s and (call := next(waiting, None)):
            answers.append(_tell(self.told, await send(url, call, now_s, self.timeout_s)))
        return answers


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Each call is sent at its own time, whatever became of the others.

    `timeout_s`: a client gives up after it. `returns`: a client that is told when to come back
    (`Retry-After`) does so, once.
    """

    calls: Sequence[Call]
    timeout_s: float
    returns: bool = False
    told: Told | None = None

    async def run(self, url: str) -> list[Answer]:
        start_s = time.perf_counter() + LEAD_S
        clients = [self._client(url, call, start_s + call.at_s) for call in self.calls]
        return [answer for answers in await asyncio.gather(*clients) for answer in answers]

    async def _client(self, url: str, call: Call, due_s: float) -> list[Answer]:
        await _sleep_until(due_s)
        answer = _tell(self.told, await send(url, call, due_s, self.timeout_s))
        if not self.returns or answer.retry_after_s is None:
            return [answer]
        back_s = due_s + answer.ended_s + answer.retry_after_s
        await _sleep_until(back_s)
        return [answer, await send(url, call, back_s, self.timeout_s, returned=True)]


def _tell(told: Told | None, answer: Answer) -> Answer:
    if told is not None:
        told(answer)
    return answer


async def _sleep_until(due_s: float) -> None:
    await asyncio.sleep(max(0.0, due_s - time.perf_counter()))


@contextlib.contextmanager
def load_client() -> Iterator[Callable[[str, ClosedLoop | OpenLoop], Load]]:
    """Runs loads in a process that has started: who measures a server meanwhile sees the load and no more."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_is_there).result()
        yield lambda url, loop: pool.submit(_run, url, loop).result()


def run_load(url: str, loop: ClosedLoop | OpenLoop) -> Load:
    """One load, in a process of its own."""
    with load_client() as client:
        return client(url, loop)


def _is_there() -> None:
    """Its interpreter, and what this module imports, are loaded once it is called."""


def _run(url: str, loop: ClosedLoop | OpenLoop) -> Load:
    return uvloop.run(measured(loop.run(url)))


async def measured(run: Coroutine[Any, Any, list[Answer]]) -> Load:
    started_s, cpu_s = time.perf_counter(), time.process_time()
    answers = await run
    return Load(answers, time.perf_counter() - started_s, time.process_time() - cpu_s)
