"""Where gateways and engines talk to the scheduler that leads: one WebSocket each, behind a secret.

A call over Serve's handles costs more than what is decided in it. They learn of this port by such a call and
then write to it; a gateway whose connection has ended and that does not come back is gone.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Protocol

from aiohttp import WSMsgType, web

from app.contract import (
    SECRET_HEADER,
    Closing,
    EngineReport,
    FirstToken,
    Grant,
    Refusal,
    Reply,
    SchedulerAddress,
)
from app.flow.ticket import Ticket
from app.hosts import family
from app.serving.frames import MAX_FRAME_BYTES, Answers, Outbox, Told, decode_told, encode

logger = logging.getLogger("ray.serve")

GATEWAY_HEADER = "x-gateway-id"
ENGINE_HEADER = "x-engine-id"
# A ping after so much silence, and half of it for the answer.
PING_SHARE = 2 / 3
# A living gateway that has lost its connection is back within a second or two.
ABSENCE_S = 2.0
# Who has no secret needs no connection for longer.
KEEP_ALIVE_S = 5.0
# For a gateway to say good-bye.
GOODBYE_S = 0.5


class Inbox(Protocol):
    """A gateway's connection, as the scheduler sees it."""

    def put(self, answer: tuple[str, Reply], /) -> None:
        """The answer to the ticket with that id."""


class Desk(Protocol):
    """Who decides."""

    def submit(self, ticket: Ticket, inbox: Inbox) -> None:
        """The answer goes to `inbox`, now or later."""

    def close(self, closing: Closing) -> None: ...

    def first_tokens(self, replica_id: str, news: Sequence[FirstToken]) -> None:
        """What that engine has begun to answer."""

    def report(self, report: EngineReport) -> None:
        """An engine's sign of life."""

    def gateway_gone(self, gateway_id: str) -> None:
        """Its connection has ended, and there is no new one."""


class SchedulerPort:
    """Opens with the first question for its address. A connection that is silent for `silence_s` is broken;
    a gateway without one for `absence_s` is gone."""

    def __init__(self, desk: Desk, host: str, silence_s: float, absence_s: float = ABSENCE_S) -> None:
        self._desk = desk
        self._host = host
        self._ping_s = silence_s * PING_SHARE
        self._absence_s = absence_s
        self._secret = secrets.token_urlsafe(32)
        self._address: SchedulerAddress | None = None
        self._opening = asyncio.Lock()
        self._runner: web.AppRunner | None = None
        # The last connection of each gateway: one that comes back is not gone when its old one ends.
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._engines: set[web.WebSocketResponse] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    async def address(self) -> SchedulerAddress:
        async with self._opening:
            if self._address is None:
                self._address = await self._open()
            return self._address

    async def _open(self) -> SchedulerAddress:
        application = web.Application()
        # Whatever is asked for: without the secret nothing is told, not even what there is.
        application.router.add_route("*", "/{any:.*}", self._talk)
        self._runner = web.AppRunner(application, access_log=None, keepalive_timeout=KEEP_ALIVE_S)
        await self._runner.setup()
        listener = socket.create_server((self._host, 0), family=family(self._host))
        await web.SockSite(self._runner, listener).start()
        return SchedulerAddress(self._host, listener.getsockname()[1], self._secret)

    @property
    def connected(self) -> bool:
        """Whether any gateway is."""
        return bool(self._sockets)

    async def left(self) -> None:
        """Until no gateway is connected."""
        await self._empty.wait()

    async def close(self) -> None:
        """Everybody asks who leads now."""
        connections = [*self._sockets.values(), *self._engines]
        await asyncio.gather(*(connection.close() for connection in connections))
        if self._runner is not None:
            await self._runner.cleanup()

    async def _talk(self, request: web.Request) -> web.WebSocketResponse:
        secret = request.headers.get(SECRET_HEADER, "").encode(errors="surrogateescape")
        if not hmac.compare_digest(secret, self._secret.encode()):
            raise web.HTTPUnauthorized()
        gateway_id, engine_id = request.headers.get(GATEWAY_HEADER), request.headers.get(ENGINE_HEADER)
        if not (gateway_id or engine_id):
            raise web.HTTPBadRequest()
        connection = web.WebSocketResponse(
            timeout=GOODBYE_S, heartbeat=self._ping_s, compress=False, max_msg_size=MAX_FRAME_BYTES
        )
        await connection.prepare(request)
        if gateway_id:
            await self._talk_with_gateway(connection, gateway_id)
        elif engine_id:
            await self._hear_engine(connection, engine_id)
        return connection

    async def _talk_with_gateway(self, connection: web.WebSocketResponse, gateway_id: str) -> None:
        self._sockets[gateway_id] = connection
        self._empty.clear()
        try:
            await self._read(connection, gateway_id)
        finally:
            if self._sockets.get(gateway_id) is connection:
                del self._sockets[gateway_id]
                asyncio.get_running_loop().call_later(self._absence_s, self._miss, gateway_id)
                if not self._sockets:
                    self._empty.set()

    def _miss(self, gateway_id: str) -> None:
        if gateway_id not in self._sockets:
            self._desk.gateway_gone(gateway_id)

    async def _read(self, connection: web.WebSocketResponse, gateway_id: str) -> None:
        async def send(answers: Sequence[tuple[str, Reply]]) -> None:
            grants = {id_: reply for id_, reply in answers if isinstance(reply, Grant)}
            refusals = {id_: reply for id_, reply in answers if isinstance(reply, Refusal)}
            await connection.send_bytes(encode(Answers(grants, refusals)))

        inbox = Outbox(send, connection.close)
        async for told in _frames(connection, gateway_id):
            for closing in told.closings:
                self._desk.close(closing)
            for ticket in told.tickets:
                self._desk.submit(replace(ticket, caller=gateway_id), inbox)

    async def _hear_engine(self, connection: web.WebSocketResponse, engine_id: str) -> None:
        """An engine's end is told in another way: its connection means nothing."""
        self._engines.add(connection)
        try:
            async for told in _frames(connection, engine_id):
                if told.first_tokens:
                    self._desk.first_tokens(engine_id, told.first_tokens)
                for report in told.reports:
                    self._desk.report(report)
        finally:
            self._engines.discard(connection)


async def _frames(connection: web.WebSocketResponse, speaker_id: str) -> AsyncIterator[Told]:
    """Until the connection ends, or what comes can't be read."""
    async for frame in connection:
        if frame.type is not WSMsgType.BINARY:
            return
        try:
            told = decode_told(frame.data)
        except ValueError as error:
            logger.error("Undecodable frame from %s: %s", speaker_id, error)
            return
        yield told
