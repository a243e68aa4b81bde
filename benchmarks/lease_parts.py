"""The processes of the benchmark of leases: gateways that only ask, and what they ask."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from app.contract import EnginePort, EngineReport, FirstToken, Grant, Reply
from app.flow.outcome import Outcome
from app.flow.ticket import EngineMetrics, ReplicaReport, Ticket, Usage
from app.serving.control import ServeControlPlane
from app.serving.scheduler_handle import who_leads
from app.serving.scheduler_line import SchedulerLine
from app.serving.scheduler_port import ENGINE_HEADER

# A handle's options are those of the process that makes it, so each makes its own.
Connect = Callable[[], Any]
# As app/serving/engine.py reports.
REPORT_INTERVAL_S = 1.0
TENANTS = 20
PROMPT_TOKENS, OUTPUT_TOKENS = 100, 100
USAGE = Usage(PROMPT_TOKENS, OUTPUT_TOKENS, ttft_s=0.1, decode_s=1.0)


@dataclass(frozen=True, slots=True)
class Window:
    """When it counts, seconds since the epoch; what was asked before is warm-up."""

    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Asked:
    """Of one gateway: seconds from asking to the lease of every lease asked for in the window."""

    waits_s: list[float]
    cpu_s: float


def engine_line(scheduler: Any, http: aiohttp.ClientSession, engine_id: str) -> SchedulerLine:
    """An engine's connection to it."""
    return SchedulerLine(partial(who_leads, scheduler), http, engine_id, header=ENGINE_HEADER)


class CallControl:
    """A call for each lease and one for its end, and nothing more: the least that Serve's handles cost."""

    def __init__(self, handle: Any) -> None:
        self._acquire, self._close = handle.acquire, handle.close

    async def acquire(self, ticket: Ticket) -> Reply:
        reply: Reply = await self._acquire.remote(ticket)
        return reply

    async def close(self, ticket_id: str, outcome: Outcome, usage: Usage | None) -> None:
        await self._close.remote(ticket_id, outcome, usage)


class AskingGateway:
    """One gateway's share of the streams. `connect` gives the handle of what it asks.

    `by_calls`: with a call each, instead of the application's own control plane. `first_tokens`: the engine's
    word of each first token too, over a connection of that engine.
    """

    def __init__(self, connect: Connect, by_calls: bool = False, first_tokens: bool = False) -> None:
        self._scheduler = connect()
        self._first_tokens = first_tokens
        # By engine.
        self._lines: dict[str, SchedulerLine] = {}
        self._control = CallControl(self._scheduler) if by_calls else self._application_control()

    def _application_control(self) -> ServeControlPlane:
        return ServeControlPlane(self._scheduler, uuid.uuid4().hex, aiohttp.ClientSession())

    def _engine_line(self, engine_id: str) -> SchedulerLine:
        line = self._lines.get(engine_id)
        if line is None:
            line = self._lines[engine_id] = engine_line(self._scheduler, aiohttp.ClientSession(), engine_id)
        return line

    async def pid(self) -> int:
        """It is there."""
        return os.getpid()

    async def ask(self, streams: int, window: Window) -> Asked:
        """Each stream asks, is given a lease and closes it, again and again."""
        waits_s: list[float] = []
        work = asyncio.gather(*(self._stream(number, window, waits_s) for number in range(streams)))
        await asyncio.sleep(max(0.0, window.begin_s - time.time()))
        cpu_s = time.process_time()
        await work
        return Asked(waits_s, time.process_time() - cpu_s)

    async def _stream(self, number: int, window: Window, waits_s: list[float]) -> None:
        while (now_s := time.time()) < window.end_s:
            ticket = a_ticket(number, now_s)
            asked_s = time.perf_counter()
            grant = await self._control.acquire(ticket)
            if not isinstance(grant, Grant):
                raise RuntimeError(f"no lease: {grant}")
            if now_s >= window.begin_s:
                waits_s.append(time.perf_counter() - asked_s)
            if self._first_tokens:
                line = self._engine_line(grant.engine.replica_id)
                await line.first_tokens([FirstToken(ticket.ticket_id, time.time())])
            await self._control.close(ticket.ticket_id, Outcome.COMPLETED, USAGE)


class Engines:
    """Stand-ins: they report, as engines do, and compute nothing."""

    def __init__(self, connect: Connect, count: int) -> None:
        self._scheduler = connect()
        self._ports = [EnginePort(f"engine-{number}", "127.0.0.1", 1, "") for number in range(count)]

    async def begin(self) -> None:
        """The first report of each; the others follow for ever."""
        # A connection of each engine's own, however many they are.
        http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        reporting = [(engine_line(self._scheduler, http, port.replica_id), port) for port in self._ports]
        await asyncio.gather(*(self._report(*one) for one in reporting))
        self._reporting = [asyncio.create_task(self._report_for_ever(*one)) for one in reporting]

    async def _report_for_ever(self, line: SchedulerLine, port: EnginePort) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            await self._report(line, port)

    async def _report(self, line: SchedulerLine, port: EnginePort) -> None:
        state = ReplicaReport(port.replica_id, frozenset(), metrics=EngineMetrics(0, 0, 0.0))
        await line.report(EngineReport(state, port, {}))


class EmptyScheduler:
    """Grants at once, knows nothing: what is left is the way to it and back."""

    def __init__(self) -> None:
        self._grant = Grant(EnginePort("engine-0", "127.0.0.1", 1, ""), 0.0, "standard", 1)

    async def acquire(self, ticket: Ticket) -> Grant:
        return self._grant

    async def close(self, ticket_id: str, outcome: Outcome, usage: Usage | None) -> None: ...


def a_ticket(number: int, now_s: float) -> Ticket:
    return Ticket(
        uuid.uuid4().hex,
        0,
        now_s,
        tenant=f"tenant-{number % TENANTS}",
        prompt_tokens=PROMPT_TOKENS,
        max_output_tokens=OUTPUT_TOKENS,
        size_bytes=1024,
    )
