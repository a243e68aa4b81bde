"""Where gateways talk to the scheduler that leads: one WebSocket each, behind a secret.

A call over Serve's handles costs more than what is decided in it. A gateway learns of this port by such a
call and then writes to it; the end of its connection is its own end.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
from collections.abc import Sequence
from typing import Protocol

from aiohttp import WSMsgType, web

from app.contract import SECRET_HEADER, Closing, Grant, Refusal, Reply, SchedulerAddress
from app.flow.ticket import Ticket
from app.serving.frames import MAX_FRAME_BYTES, Answers, Outbox, decode_told, encode

logger = logging.getLogger("ray.serve")

GATEWAY_HEADER = "x-gateway-id"
# A ping after so much silence, and half of it for the answer.
PING_SHARE = 2 / 3


class Inbox(Protocol):
    """A gateway's connection, as the scheduler sees it."""

    def put(self, answer: tuple[str, Reply], /) -> None:
        """The answer to the ticket with that id."""


class Desk(Protocol):
    """Who decides."""

    def submit(self, ticket: Ticket, inbox: Inbox) -> None:
        """The answer goes to `inbox`, now or later."""

    def close(self, closing: Closing) -> None: ...

    def gateway_gone(self, gateway_id: str) -> None:
        """Its connection has ended, and it has no other."""


class SchedulerPort:
    """Opens with the first question for its address. A gateway that is silent for `silence_s` is gone."""

    def __init__(self, desk: Desk, host: str, silence_s: float) -> None:
        self._desk = desk
        self._host = host
        self._ping_s = silence_s * PING_SHARE
        self._secret = secrets.token_urlsafe(32)
        self._address: SchedulerAddress | None = None
        self._runner: web.AppRunner | None = None
        # The last connection of each gateway: one that comes back is not gone when its old one ends.
        self._sockets: dict[str, web.WebSocketResponse] = {}

    async def address(self) -> SchedulerAddress:
        if self._address is None:
            listener = socket.create_server((self._host, 0))
            self._address = SchedulerAddress(self._host, listener.getsockname()[1], self._secret)
            application = web.Application()
            application.router.add_get("/", self._talk)
            self._runner = web.AppRunner(application, access_log=None)
            await self._runner.setup()
            await web.SockSite(self._runner, listener).start()
        return self._address

    async def close(self) -> None:
        """Every gateway asks who leads now."""
        for connection in list(self._sockets.values()):
            await connection.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _talk(self, request: web.Request) -> web.WebSocketResponse:
        if not hmac.compare_digest(request.headers.get(SECRET_HEADER, "").encode(), self._secret.encode()):
            raise web.HTTPUnauthorized()
        gateway_id = request.headers[GATEWAY_HEADER]
        connection = web.WebSocketResponse(
            heartbeat=self._ping_s, compress=False, max_msg_size=MAX_FRAME_BYTES
        )
        await connection.prepare(request)
        self._sockets[gateway_id] = connection
        try:
            await self._read(connection, gateway_id)
        finally:
            if self._sockets.get(gateway_id) is connection:
                del self._sockets[gateway_id]
                self._desk.gateway_gone(gateway_id)
        return connection

    async def _read(self, connection: web.WebSocketResponse, gateway_id: str) -> None:
        async def send(answers: Sequence[tuple[str, Reply]]) -> None:
            grants = {id_: reply for id_, reply in answers if isinstance(reply, Grant)}
            refusals = {id_: reply for id_, reply in answers if isinstance(reply, Refusal)}
            await connection.send_bytes(encode(Answers(grants, refusals)))

        inbox = Outbox(send)
        async for frame in connection:
            if frame.type is not WSMsgType.BINARY:
                break
            try:
                told = decode_told(frame.data)
            except ValueError as error:
                logger.error("Gateway %s says what can't be read: %s", gateway_id, error)
                break
            for closing in told.closings:
                self._desk.close(closing)
            for ticket in told.tickets:
                self._desk.submit(ticket, inbox)
