"""Signs of life of the engines that a gateway has requests on.

A dead engine breaks its connections; a frozen one, or one whose node is gone, keeps them and says nothing. So
each engine with a request on it is asked for its health now and then, once for all its requests.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp

from app.contract import EnginePort
from app.gateway.engines import is_lost

logger = logging.getLogger("ray.serve")

# An engine is asked so many times within the time that it has for an answer.
ASKS_A_TIMEOUT = 4


class Lifeline:
    """Ends what a request has with an engine that is lost, before or meanwhile.

    `async with lifeline: ...` raises TimeoutError then, and reading a response that it `holds` raises
    aiohttp.ClientError.
    """

    def __init__(self) -> None:
        self._bound: asyncio.Timeout | None = None
        self._response: aiohttp.ClientResponse | None = None
        self._cut = False

    async def __aenter__(self) -> None:
        bound = asyncio.timeout_at(0.0 if self._cut else None)
        await bound.__aenter__()
        self._bound = bound

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        bound, self._bound = self._bound, None
        assert bound is not None
        await bound.__aexit__(kind, error, traceback)

    def holds(self, response: aiohttp.ClientResponse) -> None:
        """From now on: its chunks need no bound of their own."""
        self._response = response
        if self._cut:
            _break(response)

    def cut(self) -> None:
        """The engine is lost."""
        self._cut = True
        if self._bound is not None:
            self._bound.reschedule(0.0)
        if self._response is not None:
            _break(self._response)


def _break(response: aiohttp.ClientResponse) -> None:
    """Not where all of it is here already, though it may be waiting for its reader."""
    if response.content.is_eof():
        return
    # Of its own: aiohttp's is one object for all connections, and would keep what each reader had in hand.
    response.content.set_exception(aiohttp.ClientConnectionError("the engine is lost"))
    response.close()


@dataclass(slots=True)
class _Watched:
    asking: asyncio.Task[None]
    lifelines: set[Lifeline] = field(default_factory=set)


class Heartbeats:
    """One question at a time for each engine that has requests; an idle engine is not asked.

    An engine is lost when it does not answer within `timeout_s`, or says that it is ill (engines.py).
    """

    def __init__(self, http: aiohttp.ClientSession, timeout_s: float) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self._watched: dict[str, _Watched] = {}
        # The question belongs to no single request.
        self._context = contextvars.copy_context()

    def watch(self, engine: EnginePort) -> Lifeline:
        """Give it back to `leave`."""
        watched = self._watched.get(engine.replica_id)
        if watched is None:
            loop = asyncio.get_running_loop()
            asking = loop.create_task(self._ask_for_ever(engine), context=self._context)
            watched = self._watched[engine.replica_id] = _Watched(asking)
        lifeline = Lifeline()
        watched.lifelines.add(lifeline)
        return lifeline

    def leave(self, engine: EnginePort, lifeline: Lifeline) -> None:
        """A request has ended; the last one of an engine ends the questions."""
        watched = self._watched.get(engine.replica_id)
        if watched is None:
            return
        watched.lifelines.discard(lifeline)
        if not watched.lifelines:
            watched.asking.cancel()
            del self._watched[engine.replica_id]

    async def _ask_for_ever(self, engine: EnginePort) -> None:
        while True:
            await asyncio.sleep(self._timeout_s / ASKS_A_TIMEOUT)
            if await is_lost(self._http, engine, self._timeout_s):
                break
        name, lost = engine.replica_id, self._watched.pop(engine.replica_id).lifelines
        logger.warning("Engine %s missed its heartbeat; failing over %d requests", name, len(lost))
        for lifeline in lost:
            lifeline.cut()
