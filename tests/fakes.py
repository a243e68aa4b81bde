"""Stand-ins that keep the contracts: a control plane that follows a script, an engine's port that obeys.

Both are driven by the test, step by step: nothing here waits for a clock. What a test waits for it waits
for with a bound (`WAIT_S`), so that a missing event fails instead of hanging.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from app import used
from app.contract import SECRET_HEADER, EnginePort, Grant, Metered, Refusal, SchedulerView
from app.flow.config import FlowConfig
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket, Usage
from app.gateway.requests import Window
from app.gateway.tiers import Tiers
from app.gateway.tokens import TokenCounter
from app.status.view import StatusView

# Far more than anything here takes, on a machine that is busy with something else.
WAIT_S = 10.0
SECRET = "open sesame"
# The default configuration's.
TIERS = Tiers(FlowConfig())

_T = TypeVar("_T")


async def soon(awaitable: Awaitable[_T]) -> _T:
    """Its result; the test fails when it does not come (no TimeoutError: that may be a result too)."""
    work = asyncio.ensure_future(awaitable)
    done, _ = await asyncio.wait({work}, timeout=WAIT_S)
    if not done:
        work.cancel()
    assert done, f"not within {WAIT_S} s: {awaitable}"
    return work.result()


def window(counter: TokenCounter | None = None) -> Window:
    """A model of 64 tokens; blocks of 8."""
    return Window("tiny", 64, counter, TIERS, 8)


@dataclass(frozen=True, slots=True)
class Closed:
    """One call of `close`."""

    ticket_id: str
    outcome: Outcome
    usage: Usage | None


class FakeControlPlane:
    """`app.contract.ControlPlane`: answers from a script, queues a ticket when the script has ended."""

    def __init__(self, *script: Grant | Refusal | Exception) -> None:
        self.script = deque(script)
        self.state: SchedulerView | None = SchedulerView(0, 0, 0, "", ())
        self.status_view: StatusView | None = None
        self.scheduler_forgets = False
        self.tickets: list[Ticket] = []
        self.gone: list[str] = []
        self.unroutable: list[str] = []
        self.queued = asyncio.Event()
        self._closes: asyncio.Queue[Closed] = asyncio.Queue()

    async def acquire(self, ticket: Ticket) -> Grant | Refusal:
        self.tickets.append(ticket)
        if not self.script:
            self.queued.set()
            await asyncio.Event().wait()
        answer = self.script.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self, ticket_id: str, outcome: Outcome, usage: Usage | None) -> None:
        self._closes.put_nowait(Closed(ticket_id, outcome, usage))

    async def replica_gone(self, replica_id: str) -> None:
        self.gone.append(replica_id)

    async def replica_unroutable(self, replica_id: str) -> None:
        self.unroutable.append(replica_id)
        if self.scheduler_forgets:
            raise ConnectionError("the scheduler restarts")

    async def view(self, metrics: bool = True) -> SchedulerView:
        """`state`; unreachable where that is None."""
        if self.state is None:
            raise ConnectionError("the scheduler restarts")
        return self.state

    async def status(self) -> StatusView:
        """`status_view`; unreachable where that is None."""
        if self.status_view is None:
            raise ConnectionError("the scheduler restarts")
        return self.status_view

    async def next_close(self) -> Closed:
        """The next `close` that nobody has asked for yet."""
        return await soon(self._closes.get())

    @property
    def all_closes_seen(self) -> bool:
        return self._closes.empty()


class EngineRequest:
    """A request that has reached the engine: the test answers it, step by step."""

    def __init__(self, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.path = path
        self.headers = headers
        self.body = body
        # Set when the client has broken the connection.
        self.abandoned = asyncio.Event()
        self._steps: asyncio.Queue[Callable[[web.Request], Awaitable[web.StreamResponse | None]]]
        self._steps = asyncio.Queue()
        self._response = web.StreamResponse()

    def begin(self) -> None:
        """The head of a stream, as vLLM's (Starlette's) is."""
        self._response.headers["content-type"] = "text/event-stream; charset=utf-8"
        self._then(self._begin)

    def send(self, chunk: bytes) -> None:
        async def write(request: web.Request) -> None:
            await self._response.write(chunk)

        self._then(write)

    def end(self, metered: Metered | None = None) -> None:
        """The end of a stream, which says what was used."""

        async def end(request: web.Request) -> web.StreamResponse:
            await self._response.write(used.comment(metered or Metered()))
            return self._response

        self._then(end)

    def answer(
        self, status: int, body: bytes, metered: Metered | None = None, *, tells: bool = True, **headers: str
    ) -> None:
        """A whole answer, which tells what was used."""
        if tells:
            headers[used.USED_HEADER] = used.to_text(metered or Metered())

        async def respond(request: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=body, content_type="application/json", headers=headers)

        self._then(respond)

    def announce(self, length_bytes: int) -> None:
        """The head of an answer that may break off."""
        self._response.content_type = "application/json"
        self._response.content_length = length_bytes
        self._then(self._begin)

    def break_connection(self) -> None:
        """What a client sees of an engine that is killed."""

        async def abort(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        self._then(abort)

    async def play(self, request: web.Request) -> web.StreamResponse:
        while True:
            step = await self._steps.get()
            response = await step(request)
            if response is not None:
                return response

    async def _begin(self, request: web.Request) -> None:
        await self._response.prepare(request)

    def _then(self, step: Callable[[web.Request], Awaitable[web.StreamResponse | None]]) -> None:
        self._steps.put_nowait(step)


class FakeEngine:
    """A real HTTP server in the place of an engine's private port."""

    def __init__(self, port: EnginePort) -> None:
        self.port = port
        self.metrics = ""
        # What it says when it is asked for its health; None: nothing, as a frozen one.
        self.health: int | None = 200
        self.ranks: list[dict[str, object]] = []
        # What requests used whose answers did not tell it, by lease.
        self.untold: dict[str, Metered] = {}
        # Asked for that, it says nothing, as a frozen one, or breaks the connection, as a dead one.
        self.freezes = self.dies = False
        # Leases that were asked back.
        self.revoked: asyncio.Queue[str] = asyncio.Queue()
        self.arrived: asyncio.Queue[EngineRequest] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def started(cls, replica_id: str = "engine-1") -> AsyncIterator[FakeEngine]:
        """Listens on a free port until the block ends; requests that are open then are cut off."""
        application = web.Application()
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        engine = cls(EnginePort(replica_id, "127.0.0.1", 0, SECRET))
        application.router.add_get("/metrics", engine._show_metrics)
        application.router.add_get("/health", engine._show_health)
        application.router.add_get("/ranks", engine._show_ranks)
        application.router.add_delete("/leases/{lease}", engine._revoke)
        application.router.add_get("/leases/{lease}", engine._tell_used)
        application.router.add_post("/{path:.*}", engine._receive)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        engine.port = EnginePort(replica_id, *runner.addresses[0][:2], SECRET)
        try:
            yield engine
        finally:
            await runner.cleanup()

    @property
    def grant(self) -> Grant:
        return Grant(self.port, queue_wait_s=0.25, class_name="standard", rank=1)

    async def next_request(self) -> EngineRequest:
        """The next request that nobody has asked for yet."""
        return await soon(self.arrived.get())

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        received = EngineRequest(request.path, dict(request.headers), await request.read())
        self.arrived.put_nowait(received)
        try:
            return await received.play(request)
        except (asyncio.CancelledError, ConnectionError):
            received.abandoned.set()
            raise

    async def _revoke(self, request: web.Request) -> web.StreamResponse:
        self.revoked.put_nowait(request.match_info["lease"])
        return web.json_response({"revoked": True})

    async def _tell_used(self, request: web.Request) -> web.StreamResponse:
        if self.freezes:
            await asyncio.Event().wait()
        if self.dies:
            assert request.transport is not None
            request.transport.abort()
        metered = self.untold.get(request.match_info["lease"])
        return web.Response(status=404) if metered is None else web.Response(text=used.to_text(metered))

    async def _show_health(self, request: web.Request) -> web.StreamResponse:
        if self.health is None:
            await asyncio.Event().wait()
        return web.Response(status=self.health)

    async def _show_ranks(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get(SECRET_HEADER) != SECRET:
            return web.json_response({"error": {"message": "this port is private"}}, status=401)
        return web.json_response({"ranks": self.ranks})

    async def _show_metrics(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get(SECRET_HEADER) != SECRET:
            return web.json_response({"error": {"message": "this port is private"}}, status=401)
        return web.Response(text=self.metrics)


def dead_port(replica_id: str = "dead") -> EnginePort:
    """Nobody listens there: port 1 is reserved and refuses at once."""
    return EnginePort(replica_id, "127.0.0.1", 1, SECRET)
