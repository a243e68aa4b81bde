"""The life of one request at the gateway: lease, bytes both ways, close.

Whatever happens (an answer, a refusal, a client that leaves, an engine that dies) the ticket is closed
with one outcome, in the background, after the engine has let go of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from app.contract import LEASE_HEADER, SECRET_HEADER, ControlPlane, Grant, Refusal, Usage
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket
from app.gateway.engine_errors import from_engine
from app.gateway.errors import ApiError, engine_lost, refused
from app.gateway.requests import Request

T = TypeVar("T")

logger = logging.getLogger("ray.serve")

# A request that has produced nothing may move to another engine this often.
ENGINE_ATTEMPTS = 3
# A scheduler that restarts is back within seconds; each attempt waits a little longer.
SCHEDULER_ATTEMPTS = 8
SCHEDULER_RETRY_S = 0.25
# How long an engine may take to say that a finished or aborted request has ended.
SETTLE_TIMEOUT_S = 10.0
# A call to a dead replica fails sooner than this; one that waits longer never reached a replica.
LOST_TIMEOUT_S = 1.0
# When an engine was lost: another, or its successor, takes about this long.
ENGINE_LOST_RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """An engine's answer: `chunks` are the body as it comes."""

    request_id: str
    content_type: str
    queue_wait_s: float
    chunks: AsyncIterator[bytes]


@dataclass(slots=True)
class _Run:
    """A request on an engine."""

    ticket_id: str
    grant: Grant
    held: asyncio.Future[Usage]
    response: aiohttp.ClientResponse | None = None
    # What the ticket is closed with; a client that leaves is the rule until the answer is complete.
    outcome: Outcome = Outcome.CANCELLED


class _EngineLostError(Exception):
    """Nothing of the answer has been seen: the request may run elsewhere."""


class Exchange:
    """Carries requests to engines. One a gateway replica; `http` is its connection pool."""

    def __init__(
        self,
        control: ControlPlane,
        http: aiohttp.ClientSession,
        silence_s: float,
        scheduler_retry_s: float = SCHEDULER_RETRY_S,
    ) -> None:
        self._control = control
        self.http = http
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=silence_s)
        self._scheduler_retry_s = scheduler_retry_s
        self._closing: set[asyncio.Task[None]] = set()
        # Serve cancels all calls that a request has made when its client leaves; what we call for a
        # request is ours to end, so it is made outside the request's context.
        self._context = contextvars.copy_context()

    @asynccontextmanager
    async def answer(self, request: Request) -> AsyncIterator[Answer]:
        """Raises ApiError when there is none; leaving the block early aborts the request."""
        run = await self._start(request)
        assert run.response is not None
        try:
            yield Answer(
                run.ticket_id,
                run.response.content_type,
                run.grant.queue_wait_s,
                self._chunks(run, request.stream),
            )
        finally:
            self._finish(run)

    async def _start(self, request: Request) -> _Run:
        request_id, arrived_s = uuid.uuid4().hex, time.time()
        for attempt in range(ENGINE_ATTEMPTS):
            ticket_id = f"{request_id}-{attempt}" if attempt else request_id
            grant = await self._lease(Ticket(ticket_id, request.priority, arrived_s))
            held = self._task(self._control.hold(grant.engine.replica_id, ticket_id))
            run = _Run(ticket_id, grant, held)
            try:
                await self._send(run, request)
                return run
            except _EngineLostError:
                run.outcome = Outcome.FAILED
                self._finish(run, LOST_TIMEOUT_S)
                # Advice only: a scheduler that restarts hears of its replicas anew.
                with contextlib.suppress(ConnectionError):
                    await self._task(self._control.replica_unroutable(grant.engine.replica_id))
            except BaseException:
                self._finish(run)
                raise
        raise engine_lost(ENGINE_LOST_RETRY_AFTER_S)

    async def _lease(self, ticket: Ticket) -> Grant:
        try:
            reply = await self._acquire(ticket)
        except BaseException:
            self._in_background(self._control.close(ticket.ticket_id, Outcome.CANCELLED, 0))
            raise
        if isinstance(reply, Refusal):
            raise refused(reply.outcome, reply.retry_after_s)
        return reply

    async def _acquire(self, ticket: Ticket) -> Grant | Refusal:
        """Submits again while the scheduler restarts: the ticket keeps its id and its age."""
        for attempt in range(SCHEDULER_ATTEMPTS):
            try:
                reply = await self._task(self._control.acquire(ticket))
            except ConnectionError:
                await asyncio.sleep(self._scheduler_retry_s * (attempt + 1))
                continue
            if reply is not None:
                return reply
        # It may have been granted and the answer lost.
        self._in_background(self._control.close(ticket.ticket_id, Outcome.CANCELLED, 0))
        return Refusal(Outcome.REJECTED_NO_ENGINE, ENGINE_LOST_RETRY_AFTER_S)

    async def _send(self, run: _Run, request: Request) -> None:
        engine = run.grant.engine
        try:
            run.response = await self.http.post(
                engine.url(request.path),
                data=request.body,
                headers={
                    "content-type": "application/json",
                    SECRET_HEADER: engine.secret,
                    LEASE_HEADER: run.ticket_id,
                },
                timeout=self._timeout,
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _EngineLostError from error
        if run.response.status == 403:
            raise _EngineLostError
        if run.response.status >= 500:
            run.outcome = Outcome.FAILED
            raise ApiError(500, "engine_error", "The engine failed on this request.")
        if run.response.status >= 400:
            body = await run.response.read()
            run.outcome = Outcome.COMPLETED
            raise from_engine(run.response.status, body)

    async def _chunks(self, run: _Run, stream: bool) -> AsyncIterator[bytes]:
        """The body. A stream whose engine dies ends with an error event, never silently."""
        assert run.response is not None
        try:
            if stream:
                async for chunk in run.response.content.iter_any():
                    yield chunk
            else:
                yield await run.response.read()
        except (aiohttp.ClientError, TimeoutError):
            run.outcome = Outcome.FAILED
            lost = engine_lost(ENGINE_LOST_RETRY_AFTER_S)
            if not stream:
                raise lost from None
            yield lost.sse_event()
            return
        run.outcome = Outcome.COMPLETED

    def _finish(self, run: _Run, settle_timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        """Lets go of the engine now and closes the ticket in the background."""
        if run.response is not None:
            if run.outcome is Outcome.COMPLETED:
                run.response.release()
            else:
                # Breaking the connection is what makes the engine abort.
                run.response.close()
        self._in_background(self._close(run, settle_timeout_s))

    async def _close(self, run: _Run, settle_timeout_s: float) -> None:
        usage = Usage()
        try:
            usage = await asyncio.wait_for(run.held, settle_timeout_s)
        except ConnectionError:
            await self._control.replica_unroutable(run.grant.engine.replica_id)
        except TimeoutError:
            logger.warning("No usage for %s: its engine did not answer.", run.ticket_id)
        finally:
            await self._control.close(run.ticket_id, run.outcome, usage.output_tokens)

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        return asyncio.get_running_loop().create_task(work, context=self._context)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._task(work)
        self._closing.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ConnectionError):
            # The scheduler is restarting; the lease is not in the engine's next report and expires.
            logger.warning("A ticket was not closed: %s", error)
        elif error is not None:
            logger.error("A ticket was not closed.", exc_info=error)
