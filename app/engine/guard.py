"""The door of an engine's private port: the replica's secret, and a lease for whatever computes.

A lease runs one request at a time; what that used is told with the end of its answer (app/used.py).

A request that vLLM refuses once its stream has begun gets the status of that refusal: nothing of the answer
has been said yet. A stream that fails later ends with an event that says so: the engine is not lost.

An engine that dies says so in one way only: before the head of an answer by a status of its own, after it by
a connection that breaks. vLLM's own word for it, an event in a stream that ends in order, never leaves.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import sse, used
from app.contract import (
    ENGINE_DIED_STATUS,
    ENGINE_FAILED,
    HEALTH_PATH,
    LEASE_HEADER,
    LEASED_PATHS,
    LEASES_PATH,
    PRIORITY_HEADER,
    RANKS_PATH,
    REVOKED_STATUS,
    SECRET_HEADER,
    Metered,
)
from app.engine.leases import LiveLeases, Run
from app.tracing import TRACEPARENT, record

logger = logging.getLogger("ray.serve")

# Paths behind the door that only read, and take no lease.
OBSERVED_PATHS = frozenset({"/metrics", RANKS_PATH})
_USED = used.USED_HEADER.encode()
_STREAM = sse.CONTENT_TYPE.encode()
# How vLLM's chats and completions begin the event that says that they can't go on.
_ERROR_EVENT = sse.DATA + b'{"error": '
# How it begins the events of a response before it looks at the request.
_PREAMBLE = (b"event: response.created\n", b"event: response.in_progress\n")
_FAILED = {"message": ENGINE_FAILED, "type": "server_error", "param": None}
_FAILED_EVENT = sse.event(json.dumps({"error": {**_FAILED, "code": "engine_error"}}).encode())
# The rank of a class: there are never a thousand.
MAX_PRIORITY_DIGITS = 3
# The request that the current task serves (app/engine/metering.py counts for it).
current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)


class Guard:
    """ASGI middleware around vLLM's application; `healthy` is asked for each sign of life."""

    def __init__(
        self, app: ASGIApp, leases: LiveLeases, secret: str, healthy: Callable[[], bool] = lambda: True
    ) -> None:
        self._app = app
        self._leases = leases
        self._secret = secret.encode()
        self._healthy = healthy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # A web socket is closed before it opens: 403, to its client.
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = dict(scope["headers"])
        path, method = _path(scope), scope["method"]
        # A header that comes twice says two things, and another reader could take the other.
        if len(headers) < len(scope["headers"]) or not self._knows(headers.get(SECRET_HEADER.encode(), b"")):
            await _refuse(send, 401, "this port is private")
        elif path == HEALTH_PATH and method == "GET":
            healthy = self._healthy()
            await _respond(send, 200 if healthy else 503, {"healthy": healthy})
        elif path in OBSERVED_PATHS and method == "GET":
            await self._app(scope, receive, send)
        elif path in LEASED_PATHS and method == "POST":
            await self._run(headers, scope, receive, send)
        elif path is not None and path.startswith(LEASES_PATH) and method == "DELETE":
            revoked = self._leases.revoke(path.removeprefix(LEASES_PATH))
            await _respond(send, 200 if revoked else 404, {"revoked": revoked})
        elif path is not None and path.startswith(LEASES_PATH) and method == "GET":
            await self._tell_used(path.removeprefix(LEASES_PATH), send)
        else:
            await _refuse(send, 404, "no such path")

    def _knows(self, secret: bytes) -> bool:
        return hmac.compare_digest(secret, self._secret)

    async def _tell_used(self, lease_id: str, send: Send) -> None:
        """Waits for the end of the request."""
        metered = await self._leases.used(lease_id)
        if metered is None:
            await _refuse(send, 404, "no such lease")
        else:
            await _send_whole(send, 200, used.to_text(metered).encode())

    async def _run(self, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send) -> None:
        lease_id = headers.get(LEASE_HEADER.encode(), b"").decode("latin-1")
        priority = headers.get(PRIORITY_HEADER.encode(), b"0")
        if not (priority.isdigit() and len(priority) <= MAX_PRIORITY_DIGITS):
            await _refuse(send, 400, "no such priority")
            return
        arrived_s = time.time()
        run = self._leases.attach(lease_id, int(priority)) if lease_id else None
        if run is None:
            await _refuse(send, 403, "no lease, or one under which nothing may begin")
            return
        token = current_run.set(run)
        revocable = _Revocable(run, receive, send)
        try:
            # It may have been taken back before it came.
            if not run.revoked.is_set():
                await self._app(scope, revocable.receive, revocable.send)
        except Exception as error:
            # An application whose client leaves amid the body, or whose engine dies, fails in its own way.
            if not (run.withheld or await revocable.fail(error)):
                raise
        finally:
            current_run.reset(token)
            self._leases.end(lease_id)
            traceparent = headers.get(TRACEPARENT.encode(), b"").decode("latin-1")
            _record_run(traceparent, run.metered, arrived_s)
        if run.revoked.is_set():
            await _refuse(send, REVOKED_STATUS, "the lease was taken back")
        elif run.orphaned and not revocable.begun:
            await _refuse(send, ENGINE_DIED_STATUS, "the engine has died")
        # An answer that has begun stays without an end: the server breaks the connection.


class _Revocable:
    """A request that can be taken back until its answer begins; the application sees its client leave.

    The head of the answer goes out with the first bytes that tell of it: nothing has been said before.
    """

    def __init__(self, run: Run, receive: Receive, send: Send) -> None:
        self._run = run
        self._receive = receive
        self._send = send
        self._head: Message | None = None
        # What a stream begins with, whatever comes of it.
        self._preamble = b""
        self._streams = self._ended = False
        self.begun = False

    async def receive(self) -> Message:
        message = asyncio.ensure_future(self._receive())
        revoked = asyncio.ensure_future(self._run.revoked.wait())
        try:
            await asyncio.wait({message, revoked}, return_when=asyncio.FIRST_COMPLETED)
            return {"type": "http.disconnect"} if revoked.done() else message.result()
        finally:
            message.cancel()
            revoked.cancel()

    async def send(self, message: Message) -> None:
        # After a refusal vLLM says that its stream has ended.
        if self._run.withheld or self._ended:
            return
        if message["type"] == "http.response.start":
            self._head = message
            return
        if self._head is not None and message.get("body", b"").startswith(_PREAMBLE):
            self._preamble += message["body"]
            return
        head, self._head = self._head, None
        if head is None and self._streams and message.get("body", b"").startswith(_ERROR_EVENT):
            # In vLLM's words it may quote whatever has failed.
            self._run.metered.failed = True
            message = {**message, "body": _FAILED_EVENT}
        if head is not None:
            refusal = _refusal(head, message)
            message = {**message, "body": self._preamble + message.get("body", b"")}
            head, message = refusal or (head, message)
        await self._say(head, message)

    async def fail(self, error: Exception) -> bool:
        """The application has raised. A stream ends in order; what vLLM had against the request is a refusal
        where the answer has yet to begin. False for a defect, which the server logs."""
        head, self._head = self._head, None
        if head is not None and _is_stream(head):
            # Seldom, and vLLM takes seconds to import.
            from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

            cause = error.__cause__
            refusal = create_error_response(cause if isinstance(cause, Exception) else error)
            await self._say(*_whole(refusal.error.code, refusal.model_dump_json().encode()))
            return refusal.error.code < 500
        if not self._streams or self._ended:
            return False
        logger.error("A stream has failed.", exc_info=error)
        self._run.metered.failed = True
        await self._say(None, {"type": "http.response.body", "body": _FAILED_EVENT})
        return True

    async def _say(self, head: Message | None, message: Message) -> None:
        """With the end goes what the request has used."""
        last = self._ended = not message.get("more_body", False)
        if head is not None:
            self._run.answers()
            self.begun = True
            self._streams = _is_stream(head)
            if last and not self._streams:
                head["headers"] = [*head["headers"], (_USED, used.to_text(self._run.metered).encode())]
            await self._send(head)
        if last and self._streams:
            message = {**message, "body": message.get("body", b"") + used.comment(self._run.metered)}
        await self._send(message)


def _is_stream(head: Message) -> bool:
    kind: bytes = dict(head["headers"]).get(b"content-type", b"")
    return kind.startswith(_STREAM)


def _refusal(head: Message, first: Message) -> tuple[Message, Message] | None:
    """Head and body of a whole answer, where the first event of a stream is an error."""
    event: bytes = first.get("body", b"")
    if not (_is_stream(head) and event.startswith(_ERROR_EVENT)):
        return None
    body = event.removeprefix(sse.DATA).partition(b"\n")[0]
    status = json.loads(body)["error"].get("code")
    return _whole(status if status in range(400, 600) else 500, body)


def _path(scope: Scope) -> str | None:
    """The path as it was sent; None where it is not what the application inside would read."""
    path: str = scope["path"]
    return path if scope.get("raw_path", path.encode()).partition(b"?")[0] == path.encode() else None


def _record_run(traceparent: str, metered: Metered, arrived_s: float) -> None:
    """What the engine did; an answer without tokens, or that came to none, is all prefill."""
    first_s, last_s = metered.first_token_at_s, metered.last_token_at_s
    record(traceparent, "prefill", arrived_s, time.time() if first_s is None else first_s)
    if first_s is not None and last_s is not None:
        record(traceparent, "decode", first_s, last_s)


async def _refuse(send: Send, status: int, reason: str) -> None:
    await _respond(send, status, {"error": {"message": reason, "type": "invalid_request_error"}})


async def _respond(send: Send, status: int, content: dict[str, object]) -> None:
    await _send_whole(send, status, json.dumps(content).encode())


async def _send_whole(send: Send, status: int, body: bytes) -> None:
    for message in _whole(status, body):
        await send(message)


def _whole(status: int, body: bytes) -> tuple[Message, Message]:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    head = {"type": "http.response.start", "status": status, "headers": headers}
    return head, {"type": "http.response.body", "body": body}
