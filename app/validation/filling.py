"""Filling the KV cache: requests of a whole window, until all places are taken or no more get in."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from app.load.streams import Answer, Call, send
from app.validation.measured import EngineSample
from app.validation.state import UNANSWERED, ApplicationState

SAMPLE_INTERVAL_S = 0.5
# Prompts that are computed at a time: more only wait for each other.
LANES = 4
# Nothing more begins to answer in this time: the application is as full as it gets.
STALL_S = 15.0
# A request of the filling is ended by us.
REQUEST_TIMEOUT_S = 1200.0


class Fill:
    """A few prompts at a time. `tell` hears how much is done (0 to 1), and a word on it.

    `flows`: of each class, least urgent first. What one is refused, because it leaves places to more urgent
    ones, the next one tries.
    """

    def __init__(
        self,
        url: str,
        flows: Sequence[Iterator[Call]],
        places: int,
        state: ApplicationState,
        tell: Callable[[float, str], None],
    ) -> None:
        self._url = url
        self._flows = deque(flows)
        self._places = places
        self._state = state
        self._tell = tell
        self._tasks: list[asyncio.Task[Answer]] = []
        self._taken = 0
        self._reason = ""
        self.started = 0
        self.began_s = time.perf_counter()

    async def run(self, longest_s: float) -> tuple[list[EngineSample], str]:
        """The samples until it is full, and why it ended. The requests go on until `leave`."""
        samples: list[EngineSample] = []
        sampling = asyncio.create_task(self._sample(samples, longest_s))
        try:
            async with asyncio.timeout(longest_s):
                await asyncio.gather(*(self._lane() for _ in range(LANES)))
            if self.started == self._places:
                self._reason = "every place was taken"
        except TimeoutError:
            self._reason = f"{longest_s:.0f} s were over"
        finally:
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling
        return samples, self._reason

    async def leave(self) -> list[Answer]:
        """All clients leave; the answers of those that had ended before."""
        ended = [task.result() for task in self._tasks if task.done() and not task.cancelled()]
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return ended

    async def _lane(self) -> None:
        while self._flows and self._taken < self._places:
            flow = self._flows[0]
            self._taken += 1
            if await self._begins(next(flow)):
                self.started += 1
                continue
            self._taken -= 1
            if self._flows and self._flows[0] is flow:
                self._flows.popleft()

    async def _begins(self, call: Call) -> bool:
        """True with its first token; a request that does not begin in time is given up."""
        started = asyncio.Event()
        sent = send(self._url, call, time.perf_counter(), REQUEST_TIMEOUT_S, started=started)
        task = asyncio.create_task(sent)
        self._tasks.append(task)
        begins = asyncio.create_task(started.wait())
        try:
            await asyncio.wait({task, begins}, timeout=STALL_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            begins.cancel()
        if not started.is_set():
            self._reason = _turned_away(task)
            task.cancel()
        return started.is_set()

    async def _sample(self, samples: list[EngineSample], longest_s: float) -> None:
        while True:
            with suppress(*UNANSWERED):
                sample = (await self._state.engines()).sample(self.began_s)
                samples.append(sample)
                done = max(self.started / self._places, sample.at_s / longest_s)
                self._tell(done, f"{self.started} requests, cache {100 * sample.kv_use:.0f} %")
            await asyncio.sleep(SAMPLE_INTERVAL_S)


def _turned_away(task: asyncio.Task[Answer]) -> str:
    if not task.done():
        return f"nothing more began to answer within {STALL_S:.0f} s"
    answer = task.result()
    return f"one more was {answer.outcome} ({answer.status} {answer.code})"
