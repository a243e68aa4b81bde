"""One run of a cell: a load in the wanted phase, a fault, and the account of what became of every request."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx
import openai
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.chaos.account import Account, count
from benchmarks.chaos.client import Ask, Attempt, Known, client_of
from benchmarks.chaos.parts import TITLES, Fault, Processes, named, title, title_of_parent

PHASES = ("queued", "before-first-token", "mid-stream")
# Tokens of an answer that is in mid-stream for seconds, of one that waits, and of a prompt of many steps.
LONG_TOKENS, SHORT_TOKENS, SLOW_PROMPT_WORDS = 300, 16, 1800
FREE_PLACES = 2
# Chunks that a stream in mid-stream has sent at least.
MID_STREAM_CHUNKS = 5
# Requests of a probe go out this often after a fault, until one has had its first token.
PROBE_EVERY_S, PROBE_TOKENS = 0.1, 1
PHASE_TIMEOUT_S = 60.0
# The bar: nothing of a dead process is left after it.
ORPHANS_AFTER_S = 10.0
# Leases must be back by then: above the longest time for which a dead engine's lease lives.
SETTLE_TIMEOUT_S = 30.0
# A replica is found dead and another started; engines of the tiny model take half a minute on two cores.
RESTORE_TIMEOUT_S = 150.0


@dataclass(frozen=True, slots=True)
class Cell:
    """Which part, what is done to it, and what requests are doing then."""

    part: str
    how: str
    phase: str

    @classmethod
    def parse(cls, text: str) -> Cell:
        """`gateway:kill:mid-stream`. Raises ValueError."""
        part, _, rest = text.partition(":")
        how, _, phase = rest.partition(":")
        if part not in TITLES or how not in ("kill", "freeze") or phase not in PHASES:
            raise ValueError(f"cell: {text!r} is not PART:kill|freeze:PHASE, phases are {', '.join(PHASES)}")
        return cls(part, how, phase)

    def __str__(self) -> str:
        return f"{self.part}:{self.how}:{self.phase}"


@dataclass(frozen=True, slots=True)
class Application:
    """Where it answers, how many engines and gateways it has when it is whole, and its processes."""

    url: str
    model: str
    engines: int
    gateways: int
    # Requests that all engines run at a time.
    places: int
    processes: Processes

    def whole(self) -> bool:
        """Every process is there."""
        processes = self.processes()
        counts = {"engine-core": self.engines, "engine-replica": self.engines, "gateway": self.gateways}
        counts |= {"scheduler": 2, "controller": 1, "proxy": 1}
        return all(len(named(processes, part)) >= count for part, count in counts.items())


def load(phase: str, places: int) -> list[Ask]:
    """Streams and whole requests in turn."""
    if phase == "before-first-token":
        prompts = [f"{number} " + "word " * SLOW_PROMPT_WORDS for number in range(places)]
        return [Ask(prompt, SHORT_TOKENS, number % 2 == 0) for number, prompt in enumerate(prompts)]
    if phase == "mid-stream":
        # Two places stay free: a probe that waits for one would measure the load.
        numbers = range(places - FREE_PLACES)
        return [Ask(f"The request {number}", LONG_TOKENS, number % 3 != 2) for number in numbers]
    # They end one after the other, so that places come free all the time.
    tokens = range(LONG_TOKENS, 0, -LONG_TOKENS // places)
    running = [Ask(f"The request {number}", tokens[number], number % 2 == 0) for number in range(places)]
    waiting = [Ask(f"The waiting {number}", SHORT_TOKENS, number % 2 == 0) for number in range(2 * places)]
    return running + waiting


def every_ask(places: int) -> list[Ask]:
    """All that any cell may send."""
    return [ask for phase in PHASES for ask in load(phase, places)] + [PROBE]


def recovery_s(attempts: Sequence[Attempt], at_s: float) -> float | None:
    """From the fault to the first token of a request that was sent after it; None while there is none.

    What was sent before shows nothing: an engine that nobody has touched goes on with it.
    """
    firsts = [one.first_s for one in attempts if one.first_s is not None and one.sent_s > at_s]
    return min(firsts) - at_s if firsts else None


PROBE = Ask("Is anybody there", PROBE_TOKENS, True)


class Run:
    """One run; `known` are the answers of an undisturbed application."""

    def __init__(self, application: Application, cell: Cell, known: Known, seed: int) -> None:
        self._application = application
        self._cell = cell
        self._known = known
        self._random = random.Random(seed)
        self.account = Account(str(cell), seed)
        self._attempts: list[Attempt] = []

    async def run(self) -> Account:
        """Raises TimeoutError when the wanted phase does not come, LookupError when there is no such part."""
        application, cell = self._application, self._cell
        async with client_of(application.url) as client, httpx.AsyncClient(timeout=5.0) as http:
            asks = load(cell.phase, application.places)
            self._random.shuffle(asks)
            # What is to wait has to come last.
            asks.sort(key=lambda ask: "waiting" in ask.prompt)
            self._attempts = [Attempt(ask) for ask in asks]
            tasks = []
            for attempt in self._attempts:
                tasks.append(asyncio.create_task(self._attempt(attempt, client)))
                # In order, for a request that waits must find every place taken.
                await asyncio.sleep(0.01)
            await until(lambda: self._in_phase(http), PHASE_TIMEOUT_S, f"{cell.phase} of {cell}")
            fault = Fault.chosen(application.processes, cell.part, cell.how, self._random)
            fault.apply()
            at_s = time.monotonic()
            await asyncio.gather(self._probe(client, at_s), *tasks)
            count(self.account, self._attempts, at_s)
            await self._settle(http, at_s)
            await self._find_orphans(fault, at_s)
            await self._restore(http, at_s)
            fault.release()
        return self.account

    async def _attempt(self, attempt: Attempt, client: openai.AsyncOpenAI) -> None:
        await attempt.run(client, self._application.model, self._known)

    async def _in_phase(self, http: httpx.AsyncClient) -> bool:
        if self._cell.phase == "mid-stream":
            streams = [attempt for attempt in self._attempts if attempt.ask.stream]
            return all(attempt.chunks >= MID_STREAM_CHUNKS for attempt in streams)
        figures = await read(http, self._application.url)
        if self._cell.phase == "queued":
            return figures.queued >= self._application.places / 2
        return figures.leases >= self._application.places / 2

    async def _probe(self, client: openai.AsyncOpenAI, at_s: float) -> None:
        """Requests one after the other start, whether or not the last has ended, until one was served."""
        probes: list[Attempt] = []
        tasks: list[asyncio.Task[None]] = []
        while self.account.recovery_s is None and time.monotonic() - at_s < RESTORE_TIMEOUT_S:
            attempt = Attempt(PROBE)
            probes.append(attempt)
            tasks.append(asyncio.create_task(self._attempt(attempt, client)))
            await asyncio.sleep(PROBE_EVERY_S)
            self.account.recovery_s = recovery_s(probes, at_s)
        await asyncio.gather(*tasks)
        self._attempts += probes

    async def _settle(self, http: httpx.AsyncClient, at_s: float) -> None:
        left = 0

        async def at_rest() -> bool:
            nonlocal left
            figures = await read(http, self._application.url)
            left = int(figures.leases + figures.queued) if figures.known else -1
            return left == 0

        try:
            await until(at_rest, SETTLE_TIMEOUT_S, "at rest")
            self.account.settled_s = time.monotonic() - at_s
        except TimeoutError:
            # A scheduler that says nothing has given nothing back.
            self.account.leaked = abs(left)

    async def _find_orphans(self, fault: Fault, at_s: float) -> None:
        if fault.how == "kill":
            await asyncio.sleep(max(0.0, ORPHANS_AFTER_S - (time.monotonic() - at_s)))
            self.account.orphans = fault.orphans()

    async def _restore(self, http: httpx.AsyncClient, at_s: float) -> None:
        async def restored() -> bool:
            figures = await read(http, self._application.url)
            return figures.ready >= self._application.engines and self._application.whole()

        try:
            await until(restored, RESTORE_TIMEOUT_S, "whole again", every_s=0.5)
            self.account.restored_s = time.monotonic() - at_s
        except TimeoutError:
            pass
        cores = named(self._application.processes(), "engine-core")
        self.account.orphans += [f"{core.pid} {title(core)}, no replica's" for core in strays(cores)]


def strays(cores: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that live and are no replica's."""
    replica = TITLES["engine-replica"]
    return [core for core in cores if replica not in title_of_parent(core) and title(core)]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of `/metrics`; `known` is False where it does not answer."""

    leases: float = 0.0
    queued: float = 0.0
    ready: float = 0.0
    known: bool = False


async def read(http: httpx.AsyncClient, url: str) -> Figures:
    try:
        response = await http.get(f"{url}/metrics")
        response.raise_for_status()
    except httpx.HTTPError:
        return Figures()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    names = ("promiseserve_leases", "promiseserve_queue_depth", "promiseserve_replicas_ready")
    leases, queued, ready = (sums.get(name, 0.0) for name in names)
    return Figures(leases, queued, ready, known=True)


async def until(
    condition: Callable[[], Awaitable[bool]], timeout_s: float, what: str, every_s: float = 0.02
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not in {timeout_s:.0f} s: {what}")
        await asyncio.sleep(every_s)
