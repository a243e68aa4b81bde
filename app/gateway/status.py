"""The live page: `/status`, its events and its JSON, for those who may see all tenants."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import aiohttp
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app import sse
from app.config import StatusConfig
from app.contract import ControlPlane
from app.gateway.door import is_local, only
from app.gateway.errors import ApiError, scheduler_unreachable, unknown_path
from app.gateway.ranks import engine_ranks
from app.gateway.shared import Shared
from app.gateway.tenants import Tenants, bearer
from app.status.loads import RankMeter
from app.status.page import CONTENT_SECURITY_POLICY, main_html, page_html
from app.status.view import RankLoad, StatusView, to_json

PAGE, EVENTS, JSON = "/status", "/status/events", "/status.json"
STATUS_PATHS = frozenset({PAGE, EVENTS, JSON})

# Fast enough to be live, slow enough to be read.
INTERVAL_S = 1.0
# Ranks answer between two steps: asking them costs the engine a little.
RANKS_INTERVAL_S = 5.0
# Streams of one gateway: a team. Each event is the page's whole content.
MAX_VIEWERS = 16
# A gateway that stops waits for its streams. The browser opens another by itself.
STREAM_S = 60.0
RECONNECT_MS = 1000
VIEWERS_RETRY_AFTER_S = 10


class StatusDoor:
    """Lets in the keys of the tenants that are named, or, where it is open, clients on this machine."""

    def __init__(self, config: StatusConfig, keys: Tenants) -> None:
        self._config = config
        self._keys = keys

    def enter(self, scope: Scope) -> None:
        """Raises ApiError: 404 where there is no page, 401 without a good key, 403 for another tenant's."""
        if self._config.tenants:
            tenant = self._keys.tenant(_key(scope))
            if tenant not in self._config.tenants:
                reason = f"authorization: the key is {tenant!r}'s, which is not among status.tenants"
                raise ApiError(403, "not_permitted", reason, "authorization")
        elif not (self._config.open and is_local(scope)):
            raise unknown_path(scope["path"])


@dataclass(frozen=True, slots=True)
class Frame:
    """A view, and what is sent of it: made once for all viewers."""

    view: StatusView
    main: str


class StatusFace:
    """ASGI application of STATUS_PATHS. Nothing is asked or rendered while nobody looks."""

    def __init__(
        self,
        control: ControlPlane,
        http: aiohttp.ClientSession,
        config: StatusConfig,
        keys: Tenants,
        stream_s: float = STREAM_S,
    ) -> None:
        self._control = control
        self._http = http
        self._door = StatusDoor(config, keys)
        self._frames = Shared(self._frame, INTERVAL_S, time.monotonic)
        self._ranks = Shared(self._rank_loads, RANKS_INTERVAL_S, time.monotonic)
        self._meter = RankMeter()
        self._stream_s = stream_s
        self._viewers = 0
        # What it serves: nothing, where nobody may see it.
        self.paths = STATUS_PATHS if config.tenants or config.open else frozenset[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ApiError."""
        try:
            self._door.enter(scope)
        except ApiError as error:
            if error.status != 401:
                raise
            await _ask_for_key(error)(scope, receive, send)
            return
        if scope["path"] == EVENTS:
            await self._stream(scope, receive, send)
            return
        frame = await self._now()
        response: Response
        if scope["path"] == JSON:
            response = Response(to_json(frame.view), media_type="application/json")
        else:
            response = HTMLResponse(page_html(frame.view, frame.main))
            response.headers["content-security-policy"] = CONTENT_SECURITY_POLICY
            response.headers["x-content-type-options"] = "nosniff"
            response.headers["referrer-policy"] = "no-referrer"
        response.headers["cache-control"] = "no-store"
        await response(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._viewers >= MAX_VIEWERS:
            reason = f"{MAX_VIEWERS} viewers are here already."
            raise ApiError(503, "too_many_viewers", reason, None, VIEWERS_RETRY_AFTER_S)
        self._viewers += 1
        try:
            events = StreamingResponse(self._events(), media_type=sse.CONTENT_TYPE)
            events.headers["cache-control"] = "no-store"
            await events(scope, receive, send)
        finally:
            self._viewers -= 1

    async def _events(self) -> AsyncIterator[bytes]:
        """Ends where the scheduler does not answer: the browser comes back."""
        yield f"retry: {RECONNECT_MS}".encode() + sse.END
        end_s = time.monotonic() + self._stream_s
        while time.monotonic() < end_s:
            try:
                frame = await self._frames.get()
            except ConnectionError:
                return
            yield sse.event(frame.main.encode())
            await asyncio.sleep(INTERVAL_S)

    async def _now(self) -> Frame:
        try:
            return await self._frames.get()
        except ConnectionError:
            raise scheduler_unreachable() from None

    async def _frame(self) -> Frame:
        # Ranks of a busy engine answer late: the rest does not wait for them.
        ranks = self._ranks.newest() or ()
        view = replace(await self._control.status(), ranks=ranks)
        return Frame(view, main_html(view))

    async def _rank_loads(self) -> tuple[RankLoad, ...]:
        engines = (await self._control.view(metrics=False)).engines
        return self._meter.read(await engine_ranks(self._http, engines), time.monotonic())


def _key(scope: Scope) -> str | None:
    """A bearer's key, or the password that a browser has asked its user for."""
    authorization = only(scope, b"authorization") or ""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "basic":
        return bearer(authorization)
    try:
        return base64.b64decode(token, validate=True).decode().partition(":")[2] or None
    except ValueError:  # What is no base64, or no text.
        return None


def _ask_for_key(error: ApiError) -> Response:
    """Has a browser ask for the key: any user name, the key as the password."""
    challenge = 'Basic realm="promiseserve: any name, an API key as the password", charset="UTF-8"'
    headers = {"www-authenticate": challenge, "cache-control": "no-store"}
    return Response(error.body(), error.status, headers, "application/json")
