"""The life of one request at the gateway: a lease, a run on its engine, another where that is lost; close.

Whatever happens (an answer, a refusal, a client that leaves, an engine that dies) the ticket is closed
with one outcome, in the background, after the engine has let go of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from opentelemetry.trace import INVALID_SPAN, Span

from app.contract import ControlPlane, Grant, Refusal
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket
from app.gateway.engines import has_ended, used_under
from app.gateway.errors import ENGINE_LOST_RETRY_AFTER_S, engine_lost, refused, scheduler_unreachable
from app.gateway.heartbeat import Heartbeats
from app.gateway.requests import Request
from app.gateway.run import EngineLostError, RevokedError, Run
from app.gateway.spans import describe_grant
from app.gateway.tiers import Tiers
from app.tracing import child, traceparent_of

logger = logging.getLogger("ray.serve")

# A request that has produced nothing may move to another engine this often, its engine lost or its lease
# taken back (which the scheduler does once at most).
ENGINE_ATTEMPTS = 3
# A scheduler that restarts is back within seconds; each attempt waits a little longer.
SCHEDULER_PATIENCE_S = 7.0
SCHEDULER_RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class Answer:
    """An engine's answer: `chunks` are the body as it comes. `abandon` ends it at the engine at once, where
    its reader can't be made to."""

    ticket_id: str
    # The engine's own, with its parameters.
    content_type: str
    grant: Grant
    chunks: AsyncIterator[bytes]
    abandon: Callable[[], object]


class Exchange:
    """Carries requests to engines. One a gateway replica; `http` is its connection pool.

    `silence_s` bounds what a living engine may say nothing for, `heartbeat_s` what a sign of life may take.
    """

    def __init__(
        self,
        control: ControlPlane,
        http: aiohttp.ClientSession,
        tiers: Tiers,
        silence_s: float,
        heartbeat_s: float,
        scheduler_retry_s: float = SCHEDULER_RETRY_S,
    ) -> None:
        self._control = control
        self.http = http
        self._tiers = tiers
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=silence_s)
        self._heartbeats = Heartbeats(http, heartbeat_s)
        self._scheduler_retry_s = scheduler_retry_s
        self._closing: set[asyncio.Task[None]] = set()
        # Serve cancels all calls that a request has made when its client leaves; what we call for a
        # request is ours to end, so it is made outside the request's context.
        self._context = contextvars.copy_context()

    @asynccontextmanager
    async def answer(self, request: Request, span: Span = INVALID_SPAN) -> AsyncIterator[Answer]:
        """Raises ApiError when there is none; leaving the block early aborts the request.

        `span` is the request's, where it is traced.
        """
        run = await self._start(request, span)
        describe_grant(span, run.ticket.ticket_id, run.grant)
        assert run.response is not None
        try:
            tier = self._tiers.served(request.service_tier, run.grant.class_name)
            yield Answer(
                run.ticket.ticket_id,
                run.response.headers.get("content-type", "application/octet-stream"),
                run.grant,
                run.chunks(request, tier),
                abandon=lambda: self._finish(run),
            )
        finally:
            self._finish(run)

    async def _start(self, request: Request, span: Span) -> Run:
        """A run that has begun to answer: engines send the head of an answer with its first token."""
        first_id = uuid.uuid4().hex
        ticket = replace(request.ticket, ticket_id=first_id, arrived_s=time.time())
        for attempt in range(1, ENGINE_ATTEMPTS + 1):
            grant = await self._lease(ticket, span)
            lifeline = self._heartbeats.watch(grant.engine)
            run = Run(ticket, grant, lifeline, child(span, "network"))
            try:
                await run.send(request, self.http, self._timeout)
                return run
            except RevokedError:
                run.revoked()
                self._heartbeats.leave(run.grant.engine, run.lifeline)
                if attempt == ENGINE_ATTEMPTS:
                    self._in_background(self._control.close(ticket.ticket_id, Outcome.FAILED, None))
            except EngineLostError:
                run.outcome, run.lost = Outcome.FAILED, True
                # The scheduler must know what became of the engine before another is asked for.
                await asyncio.wait({self._finish(run)})
                ticket = replace(ticket, ticket_id=f"{first_id}-{attempt}", moved=True)
            except BaseException:
                self._finish(run)
                raise
        raise engine_lost()

    async def _lease(self, ticket: Ticket, parent: Span) -> Grant:
        span = child(parent, "lease")
        try:
            if traceparent := traceparent_of(span):
                ticket = replace(ticket, traceparent=traceparent)
            reply = await self._acquire(ticket)
        except ConnectionError:
            # It may have been granted and the answer lost.
            self._in_background(self._control.close(ticket.ticket_id, Outcome.FAILED, None))
            raise scheduler_unreachable(ENGINE_LOST_RETRY_AFTER_S) from None
        except BaseException:
            self._in_background(self._control.close(ticket.ticket_id, Outcome.CANCELLED, None))
            raise
        finally:
            span.end()
        if isinstance(reply, Refusal):
            raise refused(reply)
        return reply

    async def _acquire(self, ticket: Ticket) -> Grant | Refusal:
        """Submits again while the scheduler restarts: the ticket keeps its id and its age. Raises
        ConnectionError where that takes too long, or longer than the ticket's own promise."""
        end_s = ticket.arrived_s + (ticket.deadline_s or math.inf)
        pause_s = 0.0
        while True:
            try:
                return await self._control.acquire(ticket)
            except ConnectionError:
                pause_s += self._scheduler_retry_s
                # From the first failure on: before it the ticket may have waited for its turn.
                now_s = time.time()
                end_s = min(end_s, now_s + SCHEDULER_PATIENCE_S)
                if now_s + pause_s > end_s:
                    raise
            await asyncio.sleep(pause_s)

    def _finish(self, run: Run) -> asyncio.Task[None]:
        """Lets go of the engine now, once, and closes the ticket in the background."""
        if run.closing is not None:
            return run.closing
        self._heartbeats.leave(run.grant.engine, run.lifeline)
        run.end()
        run.closing = self._in_background(self._close(run))
        return run.closing

    async def _close(self, run: Run) -> None:
        engine, ticket_id = run.grant.engine, run.ticket.ticket_id
        try:
            if run.metered is None and not run.lost:
                try:
                    run.metered = await used_under(self.http, engine, ticket_id)
                except aiohttp.ClientConnectionError:
                    run.lost = True
            if run.lost:
                ended = await has_ended(engine)
                tell = self._control.replica_gone if ended else self._control.replica_unroutable
                # Advice only: a scheduler that restarts hears of its replicas anew.
                with contextlib.suppress(ConnectionError):
                    await tell(engine.replica_id)
        finally:
            await self._control.close(ticket_id, run.outcome, run.usage)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, context=self._context)
        self._closing.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._closing.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ConnectionError):
            # The scheduler is restarting; the lease is not in the engine's next report and expires.
            logger.warning("A ticket was not closed: %s", error)
        elif error is not None:
            logger.error("A ticket was not closed.", exc_info=error)
