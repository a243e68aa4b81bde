"""The life of one request at the gateway: lease, bytes both ways, close.

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

from app import used
from app.contract import (
    ENGINE_DIED_STATUS,
    ENGINE_FAILED,
    LEASE_HEADER,
    PRIORITY_HEADER,
    REVOKED_STATUS,
    SECRET_HEADER,
    ControlPlane,
    Grant,
    Metered,
    Refusal,
)
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket, Usage
from app.gateway.engine_errors import from_engine
from app.gateway.engines import has_ended, used_under
from app.gateway.errors import (
    ENGINE_LOST_RETRY_AFTER_S,
    ApiError,
    engine_busy,
    engine_lost,
    refused,
    scheduler_unreachable,
)
from app.gateway.heartbeat import Heartbeats, Lifeline
from app.gateway.requests import Request
from app.gateway.spans import describe_grant
from app.gateway.tiers import Tiers, events_with_tier, response_with_tier, with_tier
from app.tracing import TRACEPARENT, child, traceparent_of

logger = logging.getLogger("ray.serve")

# A request that has produced nothing may move to another engine this often, its engine lost or its lease
# taken back (which the scheduler does once at most).
ENGINE_ATTEMPTS = 3
# A scheduler that restarts is back within seconds; each attempt waits a little longer.
SCHEDULER_PATIENCE_S = 7.0
SCHEDULER_RETRY_S = 0.25
# Answers that tell the tier where they begin, and those that tell it in each response that they hold.
TIER_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
RESPONSES_PATH = "/v1/responses"
# A response is as long as its prompt's instructions: so much of it is rewritten in some milliseconds.
REWRITTEN_AT_ONCE_BYTES = 256 * 1024


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


@dataclass(slots=True)
class _Run:
    """A request on an engine."""

    ticket: Ticket
    grant: Grant
    # Ends whatever waits for the engine when that gives no sign of life.
    lifeline: Lifeline
    span: Span
    response: aiohttp.ClientResponse | None = None
    # What the engine has said with the end of its answer; None where that did not come.
    metered: Metered | None = None
    # What the ticket is closed with; a client that leaves is the rule until the answer is complete.
    outcome: Outcome = Outcome.CANCELLED
    # The engine could not be reached, or has broken off before it answered.
    lost: bool = False
    # What closes its ticket, from when it is let go.
    closing: asyncio.Task[None] | None = None


class _EngineLostError(Exception):
    """Nothing of the answer has been seen: the request may run elsewhere."""


class _RevokedError(Exception):
    """The scheduler took the lease back before the first token, and has queued the ticket again."""


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
            yield Answer(
                run.ticket.ticket_id,
                run.response.headers.get("content-type", "application/octet-stream"),
                run.grant,
                self._chunks(run, request),
                abandon=lambda: self._finish(run),
            )
        finally:
            self._finish(run)

    async def _start(self, request: Request, span: Span) -> _Run:
        """A run that has begun to answer: engines send the head of an answer with its first token."""
        first_id = uuid.uuid4().hex
        ticket = replace(request.ticket, ticket_id=first_id, arrived_s=time.time())
        for attempt in range(1, ENGINE_ATTEMPTS + 1):
            grant = await self._lease(ticket, span)
            lifeline = self._heartbeats.watch(grant.engine)
            run = _Run(ticket, grant, lifeline, child(span, "network"))
            try:
                await self._send(run, request)
                return run
            except _RevokedError:
                self._let_go(run)
                if attempt == ENGINE_ATTEMPTS:
                    self._in_background(self._control.close(ticket.ticket_id, Outcome.FAILED, None))
            except _EngineLostError:
                run.outcome, run.lost = Outcome.FAILED, True
                # The scheduler must know what became of the engine before another is asked for.
                await asyncio.wait({self._finish(run)})
                ticket = replace(ticket, ticket_id=f"{first_id}-{attempt}", moved=True)
            except BaseException:
                self._finish(run)
                raise
        raise engine_lost()

    def _let_go(self, run: _Run) -> None:
        """The lease was taken back: the same ticket waits again."""
        assert run.response is not None
        run.span.set_attribute("error.type", "revoked")
        run.span.end()
        run.response.release()
        self._heartbeats.leave(run.grant.engine, run.lifeline)

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

    async def _send(self, run: _Run, request: Request) -> None:
        engine = run.grant.engine
        try:
            async with run.lifeline:
                run.response = await self.http.post(
                    engine.url(request.path),
                    data=request.body,
                    headers=_headers(run),
                    timeout=self._timeout,
                )
                if not request.stream or run.response.status >= 400:
                    # Nothing is said of it before its end: until then it may come from elsewhere.
                    await run.response.read()
            run.lifeline.holds(run.response)
        except aiohttp.ClientResponseError:
            # It answers, but in no HTTP that can be read: no engine would do better.
            run.outcome = Outcome.FAILED
            raise ApiError(500, "engine_error", ENGINE_FAILED) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _EngineLostError from error
        if (told := run.response.headers.get(used.USED_HEADER)) is not None:
            run.metered = used.from_text(told)
        # 401 and 403: the port is another's by now, or the engine knows of no lease.
        if run.response.status in (401, 403, ENGINE_DIED_STATUS):
            raise _EngineLostError
        if run.response.status == REVOKED_STATUS:
            raise _RevokedError
        if run.response.status == 503:
            # Its own queue is full: a scheduler's successor does not know how many answers leases have.
            run.outcome = Outcome.FAILED
            raise engine_busy()
        if run.response.status >= 500:
            run.outcome = Outcome.FAILED
            raise ApiError(500, "engine_error", ENGINE_FAILED)
        if run.response.status >= 400:
            run.outcome = Outcome.ENGINE_REFUSED
            raise from_engine(run.response.status, await run.response.read(), request.path)

    async def _chunks(self, run: _Run, request: Request) -> AsyncIterator[bytes]:
        """The body. A stream whose engine dies ends with an error event, never silently."""
        assert run.response is not None
        tier = self._tiers.served(request.service_tier, run.grant.class_name)
        says_tier, holds_responses = request.path in TIER_PATHS, request.path == RESPONSES_PATH
        if not request.stream:
            body = await run.response.read()
            if holds_responses:
                body = await _rewritten(response_with_tier, body, tier)
            yield with_tier(body, tier) if says_tier else body
        else:
            end = used.StreamEnd()
            try:
                while chunk := await run.response.content.readany():
                    if events := end.events(chunk):
                        if holds_responses:
                            events = await _rewritten(events_with_tier, events, tier)
                        yield with_tier(events, tier) if says_tier else events
                        says_tier = False
            except (aiohttp.ClientError, TimeoutError):
                run.outcome, run.lost = Outcome.FAILED, True
                yield engine_lost().sse_event()
                return
            run.metered = end.used or run.metered
            if end.begun:
                yield end.begun
        failed = run.metered is not None and run.metered.failed
        run.outcome = Outcome.FAILED if failed else Outcome.COMPLETED

    def _finish(self, run: _Run) -> asyncio.Task[None]:
        """Lets go of the engine now, once, and closes the ticket in the background."""
        if run.closing is not None:
            return run.closing
        self._heartbeats.leave(run.grant.engine, run.lifeline)
        if run.outcome is not Outcome.COMPLETED:
            run.span.set_attribute("error.type", run.outcome.label)
        run.span.end()
        if run.response is not None:
            if run.outcome in (Outcome.COMPLETED, Outcome.ENGINE_REFUSED):
                run.response.release()
            else:
                # Breaking the connection is what makes the engine abort.
                run.response.close()
        run.closing = self._in_background(self._close(run))
        return run.closing

    async def _close(self, run: _Run) -> None:
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
            usage = None if run.metered is None else _usage(run.metered, run.ticket)
            await self._control.close(ticket_id, run.outcome, usage)

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


async def _rewritten(rewrite: Callable[[bytes, str], bytes], body: bytes, tier: str) -> bytes:
    """Off the event loop where that would stand still for long."""
    if len(body) > REWRITTEN_AT_ONCE_BYTES:
        return await asyncio.to_thread(rewrite, body, tier)
    return rewrite(body, tier)


def _headers(run: _Run) -> dict[str, str]:
    headers = {
        "content-type": "application/json",
        SECRET_HEADER: run.grant.engine.secret,
        LEASE_HEADER: run.ticket.ticket_id,
        PRIORITY_HEADER: str(run.grant.rank),
    }
    if traceparent := traceparent_of(run.span):
        headers[TRACEPARENT] = traceparent
    return headers


def _usage(metered: Metered, ticket: Ticket) -> Usage:
    first_s, last_s = metered.first_token_at_s, metered.last_token_at_s
    ttft_s = None if first_s is None else first_s - ticket.arrived_s
    decode_s = None if first_s is None or last_s is None else last_s - first_s
    return Usage(metered.prompt_tokens, metered.output_tokens, ttft_s, decode_s)
