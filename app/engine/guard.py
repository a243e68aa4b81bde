"""The door of an engine's private port: the replica's secret, and a live lease for whatever computes."""

from __future__ import annotations

import hmac
import json
from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send

from app.contract import LEASE_HEADER, LEASED_PATHS, SECRET_HEADER, Usage
from app.engine.leases import LiveLeases

# Paths that only read, and take no lease.
OBSERVED_PATHS = frozenset({"/metrics", "/health"})
# The usage of the request that the current task serves (filled by app/engine/metering.py).
current_usage: ContextVar[Usage | None] = ContextVar("current_usage", default=None)


class Guard:
    """ASGI middleware around vLLM's application."""

    def __init__(self, app: ASGIApp, leases: LiveLeases, secret: str) -> None:
        self._app = app
        self._leases = leases
        self._secret = secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if scope["type"] != "http" or not self._knows(headers.get(SECRET_HEADER.encode(), b"")):
            await _refuse(send, 401, "this port is private")
        elif scope["path"] in OBSERVED_PATHS and scope["method"] == "GET":
            await self._app(scope, receive, send)
        elif scope["path"] in LEASED_PATHS and scope["method"] == "POST":
            await self._run(headers.get(LEASE_HEADER.encode(), b"").decode("latin-1"), scope, receive, send)
        else:
            await _refuse(send, 404, "no such path")

    def _knows(self, secret: bytes) -> bool:
        return hmac.compare_digest(secret, self._secret)

    async def _run(self, lease_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        usage = await self._leases.attach(lease_id) if lease_id else None
        if usage is None:
            await _refuse(send, 403, "no live lease")
            return
        token = current_usage.set(usage)
        try:
            await self._app(scope, receive, send)
        finally:
            current_usage.reset(token)
            self._leases.end(lease_id)


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": {"message": reason, "type": "invalid_request_error"}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
