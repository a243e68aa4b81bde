"""The HTTP face: an ASGI application with a closed list of paths, and the life of a request to the model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable

from opentelemetry.trace import Span
from starlette.types import Message, Receive, Scope, Send

from app.contract import ControlPlane
from app.gateway.door import announced_bytes, check_coding, check_head, only, tenant_of
from app.gateway.errors import ApiError, internal_error, shorten, unknown_path
from app.gateway.exchange import Answer, Exchange
from app.gateway.headers import Headers, grant_headers
from app.gateway.incoming import Arriving, Incoming
from app.gateway.patience import Patience, ReaderStalledError
from app.gateway.reads import Reads
from app.gateway.redaction import where
from app.gateway.requests import Request, Window, body_too_large, read
from app.gateway.schemas import SCHEMAS
from app.gateway.spans import describe, request_span
from app.gateway.status import StatusFace
from app.gateway.tenants import Tenants
from app.limits import RequestLimits

logger = logging.getLogger("ray.serve")


class HttpFace:
    """ASGI application of one gateway replica."""

    def __init__(
        self,
        exchange: Exchange,
        control: ControlPlane,
        window: Window,
        keys: Tenants,
        status: StatusFace,
        incoming: Incoming,
        reader_stall_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchange = exchange
        self._window = window
        self._keys = keys
        self._incoming = incoming
        self._reader_stall_s = reader_stall_s
        self._status = status
        self._reads = Reads(control, exchange.http, window, status.paths, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # Closed before it opens: 403, to its client.
            await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return
        if scope["method"] == "HEAD":
            send = _head_only(send)
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            check_head(scope, self._window.limits)
            await self._route(scope, receive, sending)
        except ApiError as error:
            await _respond(send, error.status, error.body(), error.headers())
        except Exception as error:
            # The top of the task: what Serve would log and answer could quote the request.
            logger.error("A request has failed: %s", where(error))
            if begun:
                raise ConnectionAbortedError("the answer has broken off") from None
            failed = internal_error()
            await _respond(send, failed.status, failed.body(), failed.headers())

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope = _below_root(scope)
        path, method = scope["path"], scope["method"]
        if path in SCHEMAS:
            _allow(method, "POST")
            await self._infer(scope, receive, send)
        elif (read_open := self._reads.open.get(path)) is not None:
            _allow(method, "GET", "HEAD")
            await (await read_open())(scope, receive, send)
        elif (read_keyed := self._reads.keyed.get(path)) is not None:
            _allow(method, "GET")
            tenant_of(scope, self._keys)
            await (await read_keyed())(scope, receive, send)
        elif path in self._status.paths:
            _allow(method, "GET")
            await self._status(scope, receive, send)
        elif path.startswith("/v1/models/"):
            _allow(method, "GET")
            tenant_of(scope, self._keys)
            name = path.removeprefix("/v1/models/")
            raise ApiError(404, "model_not_found", f"model: {shorten(name)} is not served", "model")
        else:
            raise unknown_path(path)

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        with request_span(scope["path"], only(scope, b"traceparent")) as span:
            await self._infer_within(span, scope, receive, send)

    async def _infer_within(self, span: Span, scope: Scope, receive: Receive, send: Send) -> None:
        request = await self._request(scope, receive)
        if request is None:
            return
        describe(span, request, self._window.model)
        answering = asyncio.ensure_future(self._answer(request, span, send))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not answering.done():
                answering.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await answering

    async def _request(self, scope: Scope, receive: Receive) -> Request | None:
        """None when the client left. Raises ApiError."""
        tenant = tenant_of(scope, self._keys)
        with self._incoming.body(tenant) as arriving:
            body = await _read_body(scope, receive, self._window.limits, arriving)
            return None if body is None else await read(scope["path"], body, self._window, tenant)

    async def _answer(self, request: Request, span: Span, send: Send) -> None:
        try:
            async with Patience(send, self._reader_stall_s) as patience:
                await self._send_answer(request, span, patience.send)
        except ReaderStalledError:
            # Its lease is free with the end of this; the connection breaks, so that it can't take a part of
            # the answer for the whole.
            logger.info("A client has taken nothing for %.0f s and was let go.", self._reader_stall_s)

    async def _send_answer(self, request: Request, span: Span, send: Send) -> None:
        async with self._exchange.answer(request, span) as answer:
            if not request.stream:
                body = b"".join([chunk async for chunk in answer.chunks])
                await _respond(send, 200, body, _answer_headers(answer))
                return
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [*_answer_headers(answer), (b"cache-control", b"no-cache")],
                }
            )
            async for chunk in answer.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def _below_root(scope: Scope) -> Scope:
    """Where Serve has a `route_prefix`, the path begins with it: ASGI's root. Raises ApiError 404."""
    root: str = scope.get("root_path", "")
    if not root:
        return scope
    path = scope["path"]
    below = path.removeprefix(root)
    # Serve lets through whatever begins with the same letters.
    if below == path or not below.startswith("/"):
        raise unknown_path(path)
    return {**scope, "path": below, "root_path": ""}


def _allow(method: str, *allowed: str) -> None:
    if method not in allowed:
        reason = f"method: {method} is not allowed here, {allowed[0]} is"
        raise ApiError(405, "method_not_allowed", reason, "method", allow=", ".join(allowed))


def _head_only(send: Send) -> Send:
    """Not every server drops the body of an answer to HEAD."""

    async def sending(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sending


def _answer_headers(answer: Answer) -> Headers:
    return [
        (b"content-type", answer.content_type.encode()),
        (b"x-ticket-id", answer.ticket_id.encode()),
        *grant_headers(answer.grant),
    ]


async def _read_body(
    scope: Scope, receive: Receive, limits: RequestLimits, arriving: Arriving
) -> bytes | None:
    """The whole body; None when the client left. Raises ApiError 408, 413, 415, 429."""
    check_coding(scope)
    if announced_bytes(scope) > limits.max_body_bytes:
        raise body_too_large(limits)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _all_parts(receive, limits, arriving)
    except TimeoutError:
        reason = f"body: not complete within {limits.body_timeout_s:g} s"
        # OpenAI's client would send the same body as slowly, and hold as much for as long, twice more.
        raise ApiError(408, "body_timeout", reason, "body", retryable=False) from None


async def _all_parts(receive: Receive, limits: RequestLimits, arriving: Arriving) -> bytes | None:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        arriving.add(len(parts[-1]))
        if arriving.size_bytes > limits.max_body_bytes:
            raise body_too_large(limits)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
