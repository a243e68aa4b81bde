"""A request on one engine: sent under its lease, its answer passed on, let go.

What became of it, its outcome and what it used, is what its ticket is closed with (app/gateway/exchange.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
from opentelemetry.trace import Span

from app import used
from app.contract import (
    ENGINE_DIED_STATUS,
    ENGINE_FAILED,
    LEASE_HEADER,
    PRIORITY_HEADER,
    REVOKED_STATUS,
    SECRET_HEADER,
    Grant,
    Metered,
)
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket, Usage
from app.gateway.engine_errors import from_engine
from app.gateway.errors import ApiError, engine_busy, engine_lost
from app.gateway.heartbeat import Lifeline
from app.gateway.requests import Request
from app.gateway.tiers import events_with_tier, response_with_tier, with_tier
from app.tracing import TRACEPARENT, traceparent_of

# Answers that tell the tier where they begin, and those that tell it in each response that they hold.
TIER_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
RESPONSES_PATH = "/v1/responses"
# A response is as long as its prompt's instructions: so much of it is rewritten in some milliseconds.
REWRITTEN_AT_ONCE_BYTES = 256 * 1024


class EngineLostError(Exception):
    """Nothing of the answer has been seen: the request may run elsewhere."""


class RevokedError(Exception):
    """The scheduler took the lease back before the first token, and has queued the ticket again."""


@dataclass(slots=True)
class Run:
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

    async def send(
        self, request: Request, http: aiohttp.ClientSession, client_timeout: aiohttp.ClientTimeout
    ) -> None:
        """Returns when the engine has begun to answer; raises EngineLostError, RevokedError or ApiError."""
        engine = self.grant.engine
        try:
            async with self.lifeline:
                self.response = await http.post(
                    engine.url(request.path),
                    data=request.body,
                    headers=self._headers(),
                    timeout=client_timeout,
                )
                if not request.stream or self.response.status >= 400:
                    # Nothing is said of it before its end: until then it may come from elsewhere.
                    await self.response.read()
            self.lifeline.holds(self.response)
        except aiohttp.ClientResponseError:
            # It answers, but in no HTTP that can be read: no engine would do better.
            self.outcome = Outcome.FAILED
            raise ApiError(500, "engine_error", ENGINE_FAILED) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineLostError from error
        if (told := self.response.headers.get(used.USED_HEADER)) is not None:
            self.metered = used.from_text(told)
        # 401 and 403: the port is another's by now, or the engine knows of no lease.
        if self.response.status in (401, 403, ENGINE_DIED_STATUS):
            raise EngineLostError
        if self.response.status == REVOKED_STATUS:
            raise RevokedError
        if self.response.status == 503:
            # Its own queue is full: a scheduler's successor does not know how many answers leases have.
            self.outcome = Outcome.FAILED
            raise engine_busy()
        if self.response.status >= 500:
            self.outcome = Outcome.FAILED
            raise ApiError(500, "engine_error", ENGINE_FAILED)
        if self.response.status >= 400:
            self.outcome = Outcome.ENGINE_REFUSED
            raise from_engine(self.response.status, await self.response.read(), request.path)

    def _headers(self) -> dict[str, str]:
        headers = {
            "content-type": "application/json",
            SECRET_HEADER: self.grant.engine.secret,
            LEASE_HEADER: self.ticket.ticket_id,
            PRIORITY_HEADER: str(self.grant.rank),
        }
        if traceparent := traceparent_of(self.span):
            headers[TRACEPARENT] = traceparent
        return headers

    async def chunks(self, request: Request, tier: str) -> AsyncIterator[bytes]:
        """The body, with the tier that is served. A stream whose engine dies ends with an error event, never
        silently."""
        assert self.response is not None
        says_tier, holds_responses = request.path in TIER_PATHS, request.path == RESPONSES_PATH
        if not request.stream:
            body = await self.response.read()
            if holds_responses:
                body = await _rewritten(response_with_tier, body, tier)
            yield with_tier(body, tier) if says_tier else body
        else:
            end = used.StreamEnd()
            try:
                while chunk := await self.response.content.readany():
                    if events := end.events(chunk):
                        if holds_responses:
                            events = await _rewritten(events_with_tier, events, tier)
                        yield with_tier(events, tier) if says_tier else events
                        says_tier = False
            except (aiohttp.ClientError, TimeoutError):
                self.outcome, self.lost = Outcome.FAILED, True
                yield engine_lost().sse_event()
                return
            self.metered = end.used or self.metered
            if end.begun:
                yield end.begun
        failed = self.metered is not None and self.metered.failed
        self.outcome = Outcome.FAILED if failed else Outcome.COMPLETED

    def revoked(self) -> None:
        """Its lease was taken back: the engine has let go of it."""
        assert self.response is not None
        self.span.set_attribute("error.type", "revoked")
        self.span.end()
        self.response.release()

    def end(self) -> None:
        """Lets go of the engine, which aborts what it has not answered."""
        if self.outcome is not Outcome.COMPLETED:
            self.span.set_attribute("error.type", self.outcome.label)
        self.span.end()
        if self.response is not None:
            if self.outcome in (Outcome.COMPLETED, Outcome.ENGINE_REFUSED):
                self.response.release()
            else:
                # Breaking the connection is what makes the engine abort.
                self.response.close()

    @property
    def usage(self) -> Usage | None:
        """None where the engine has not said it."""
        if self.metered is None:
            return None
        first_s, last_s = self.metered.first_token_at_s, self.metered.last_token_at_s
        ttft_s = None if first_s is None else first_s - self.ticket.arrived_s
        decode_s = None if first_s is None or last_s is None else last_s - first_s
        return Usage(self.metered.prompt_tokens, self.metered.output_tokens, ttft_s, decode_s)


async def _rewritten(rewrite: Callable[[bytes, str], bytes], body: bytes, tier: str) -> bytes:
    """Off the event loop where that would stand still for long."""
    if len(body) > REWRITTEN_AT_ONCE_BYTES:
        return await asyncio.to_thread(rewrite, body, tier)
    return rewrite(body, tier)
