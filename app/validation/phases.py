"""The three measurements of a running application: latency, throughput, memory. Real requests over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from uuid import uuid4

import aiohttp

from app.config import ApplicationConfig
from app.load.loops import ClosedLoop, OpenLoop
from app.load.streams import COMPLETED, REFUSED, Answer, Call
from app.validation.filling import Fill
from app.validation.measured import (
    Filling,
    Latency,
    Measurements,
    NotMeasured,
    Ranks,
    Throughput,
)
from app.validation.state import UNANSWERED, ApplicationState, NotServedError
from app.validation.workload import Target, calls, filling_lengths

REQUEST_TIMEOUT_S = 120.0
# Caches of code and of allocators are warm after so many.
WARM_UP_REQUESTS = 2
# A P99 that means something takes a hundred.
LATENCY_REQUESTS = 200
# More than is promised is offered: whether a rate is kept must not hang on the ragged ends of a short run.
OFFERED_SHARE = 1.1
# Asking the ranks holds an engine's pipeline up for a moment.
RANKS_INTERVAL_S = 5.0
# How often it is asked whether all requests have ended, once their clients have left.
SETTLE_LOOKS = 30
SETTLE_INTERVAL_S = 0.5

# Which measurement, how much of it is done (0 to 1), and a word on it.
Progress = Callable[[str, float, str], None]
LATENCY, THROUGHPUT, MEMORY = "latency", "throughput", "memory"


@dataclass(frozen=True, slots=True)
class Durations:
    """Bounds of the measurements; a running request may exceed them by its own length."""

    load_s: float = 30.0
    filling_s: float = 120.0


async def measure(
    config: ApplicationConfig, target: Target, durations: Durations, progress: Progress
) -> Measurements:
    """All of it, one after the other. Raises NotServedError where the configuration is not what answers."""
    async with aiohttp.ClientSession() as http:
        state = ApplicationState(http, target)
        try:
            await state.check(config.engine.max_model_len)
            return await _Run(config, target, state, durations, progress).all()
        except UNANSWERED as error:
            reason = str(error) or type(error).__name__
            raise NotServedError(f"{target.url}{target.prefix}: {reason}") from error


class _Run:
    """One run; keeps every answer, because an error is an error in whichever phase it happens."""

    def __init__(
        self,
        config: ApplicationConfig,
        target: Target,
        state: ApplicationState,
        durations: Durations,
        progress: Progress,
    ) -> None:
        self._config = config
        self._promises = config.promises
        self._target = target
        self._state = state
        self._durations = durations
        self._progress = progress
        self._requests = 0
        self._failures: Counter[str] = Counter()
        self._loaded: list[Ranks] = []
        # No prompt of an earlier run: its beginning would still be in the cache.
        self._seed = uuid4().hex[:8]

    async def all(self) -> Measurements:
        latency = await self._latency()
        throughput, loaded = await self._throughput()
        filling, full = await self._fill()
        return Measurements(
            latency, throughput, filling, loaded, full, self._requests, dict(self._failures.most_common())
        )

    async def _latency(self) -> Latency:
        promises, duration_s = self._promises, self._durations.load_s
        wanted = list(islice(self._calls(LATENCY), LATENCY_REQUESTS + WARM_UP_REQUESTS))
        await ClosedLoop(wanted[:WARM_UP_REQUESTS], 1, timeout_s=REQUEST_TIMEOUT_S).run(self._target.url)
        began_s, seen = time.perf_counter(), 0

        def tell(answer: Answer) -> None:
            nonlocal seen
            seen += 1
            done = max(seen / LATENCY_REQUESTS, (time.perf_counter() - began_s) / duration_s)
            self._progress(LATENCY, done, f"{seen} requests")
            self._note(LATENCY, answer)

        streams = promises.latency_streams
        # As they come at the promised rate, and in a third of the time at most.
        apart_s = min(1.0 / promises.requests_per_s, duration_s / 3 / streams)
        loop = ClosedLoop(wanted[WARM_UP_REQUESTS:], streams, duration_s, REQUEST_TIMEOUT_S, tell, apart_s)
        answers = await loop.run(self._target.url)
        self._progress(LATENCY, 1.0, f"{seen} requests")
        whole = [answer for answer in answers if answer.outcome == COMPLETED]
        return Latency(
            promises.prompt_tokens,
            promises.output_tokens,
            promises.latency_streams,
            tuple(1000 * one.ttft_s for one in whole if one.ttft_s is not None),
            tuple(1000 * one.tpot_s for one in whole if one.tpot_s is not None),
            sum(answer.outcome == REFUSED for answer in answers),
        )

    async def _throughput(self) -> tuple[Throughput, tuple[Ranks, ...] | NotMeasured]:
        rate = OFFERED_SHARE * self._promises.requests_per_s
        # Two completions are the fewest that have a rate.
        count = max(2, round(rate * self._durations.load_s))
        offered = [
            replace(call, at_s=number / rate)
            for number, call in enumerate(islice(self._calls(THROUGHPUT), count))
        ]
        seen = 0

        def tell(answer: Answer) -> None:
            nonlocal seen
            seen += 1
            self._progress(THROUGHPUT, seen / count, f"{seen} of {count} requests")
            self._note(THROUGHPUT, answer)

        watching = asyncio.create_task(self._watch_ranks())
        try:
            answers = await OpenLoop(offered, REQUEST_TIMEOUT_S, told=tell).run(self._target.url)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        start_s = min(answer.due_s for answer in answers)
        ends_s = [one.due_s + one.ended_s - start_s for one in answers if one.outcome == COMPLETED]
        refusals = Counter(f"{one.status} {one.code}".strip() for one in answers if one.outcome == REFUSED)
        throughput = Throughput(count, rate, tuple(sorted(ends_s)), dict(refusals.most_common()))
        return throughput, await self._with_last_ranks()

    async def _watch_ranks(self) -> None:
        """Several looks: utilisation is of a moment."""
        while True:
            with suppress(*UNANSWERED):
                self._loaded.append(await self._state.ranks())
            await asyncio.sleep(RANKS_INTERVAL_S)

    async def _with_last_ranks(self) -> tuple[Ranks, ...] | NotMeasured:
        last = await self._ranks()
        if isinstance(last, NotMeasured):
            return last
        # The last one is of idle GPUs; of a CPU it ends the count of busy seconds.
        moments = [*self._loaded, last] if any(rank.busy_s is not None for rank in last) else self._loaded
        return tuple(filter(None, moments)) or NotMeasured("no rank answered while it was busy")

    async def _ranks(self) -> Ranks | NotMeasured:
        try:
            return await self._state.ranks()
        except UNANSWERED as error:
            return NotMeasured(f"the ranks can't be asked: {error}")

    async def _fill(self) -> tuple[Filling | NotMeasured, Ranks | NotMeasured]:
        try:
            before = await self._state.engines()
        except UNANSWERED as error:
            return _unknown(f"the metrics can't be read: {error}")
        if not before.count:
            return _unknown("no engine tells its metrics")
        prompt_tokens, output_tokens = filling_lengths(self._config.engine.max_model_len)
        flows = [
            calls(
                self._target,
                f"{self._seed}-{MEMORY}-{policy.name}",
                prompt_tokens,
                output_tokens,
                policy.name,
            )
            for policy in reversed(self._config.flow.classes)
        ]
        places = self._config.requests_per_replica() * before.count
        fill = Fill(self._target.url, flows, places, self._state, partial(self._progress, MEMORY))
        samples, reason = await fill.run(self._durations.filling_s)
        full = await self._ranks()
        last = await self._state.engines()
        samples.append(last.sample(fill.began_s))
        if last.limit < places:
            reason += f"; of the {places} places the scheduler had closed {places - last.limit} by then"
        for answer in await fill.leave():
            self._note(MEMORY, answer)
        await self._settle()
        filling = Filling(
            samples=(replace(before.sample(fill.began_s), at_s=0.0), *samples),
            kv_tokens=before.kv_tokens,
            places=places,
            started=fill.started,
            request_tokens=prompt_tokens + output_tokens,
            ended_because=reason,
        )
        return filling, full

    async def _settle(self) -> None:
        """Leaves the application as it was found."""
        for _ in range(SETTLE_LOOKS):
            if not (await self._state.engines()).running:
                return
            await asyncio.sleep(SETTLE_INTERVAL_S)

    def _calls(self, phase: str) -> Iterator[Call]:
        promises, seed = self._promises, f"{self._seed}-{phase}"
        return calls(self._target, seed, promises.prompt_tokens, promises.output_tokens)

    def _note(self, phase: str, answer: Answer) -> None:
        self._requests += 1
        if answer.outcome not in (COMPLETED, REFUSED):
            words = [phase, answer.outcome, str(answer.status or ""), answer.code]
            self._failures[" ".join(filter(None, words))] += 1


def _unknown(reason: str) -> tuple[NotMeasured, NotMeasured]:
    return NotMeasured(reason), NotMeasured(reason)
