"""A connection to the scheduler that leads: a gateway's tickets and closings there and answers back, or an
engine's reports and first tokens there.

Who leads is asked now and then: its own death is the end of the connection, and a connection to one that
does not lead any more is given up.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable, Sequence

import aiohttp

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
from app.serving.frames import MAX_FRAME_BYTES, Outbox, Told, decode_answers, encode
from app.serving.scheduler_port import GATEWAY_HEADER

logger = logging.getLogger("ray.serve")

LOOK_INTERVAL_S = 1.0
# Of the question who leads, and of the connection to it.
TIMEOUT_S = 5.0
# The scheduler answers a ping in milliseconds. After so much silence, and half of it more, it is frozen.
PING_S = 5.0
# A scheduler that does not say good-bye is left all the same.
GOODBYE_S = 1.0
GONE = "the scheduler has gone"

# What goes to the scheduler.
Said = Ticket | Closing | FirstToken | EngineReport
WhoLeads = Callable[[], Awaitable[SchedulerAddress]]


class SchedulerLine:
    """One a gateway or engine, whose id goes as `header`. `who_leads` raises ConnectionError where nobody
    does."""

    def __init__(
        self,
        who_leads: WhoLeads,
        http: aiohttp.ClientSession,
        speaker_id: str,
        timeout_s: float = TIMEOUT_S,
        look_interval_s: float = LOOK_INTERVAL_S,
        header: str = GATEWAY_HEADER,
    ) -> None:
        self._who_leads = who_leads
        self._http = http
        self._headers = {header: speaker_id}
        self._timeout_s = timeout_s
        self._look_interval_s = look_interval_s
        self._connection: _Connection | None = None
        self._looking: asyncio.Task[_Connection] | None = None
        # Serve cancels all calls that a request has made when its client leaves; this one is everybody's.
        self._context = contextvars.copy_context()

    async def submit(self, ticket: Ticket) -> Reply:
        """Waits for a place. Raises ConnectionError when the scheduler can't be reached, or has gone."""
        return await (await self._connected()).submit(ticket)

    async def close(self, closing: Closing) -> None:
        """Raises ConnectionError when the scheduler can't be reached."""
        (await self._connected()).put(closing)

    async def first_tokens(self, news: Sequence[FirstToken]) -> None:
        """Raises ConnectionError when the scheduler can't be reached."""
        connection = await self._connected()
        for one in news:
            connection.put(one)

    async def report(self, report: EngineReport) -> None:
        """Raises ConnectionError when the scheduler can't be reached."""
        (await self._connected()).put(report)

    async def keep(self) -> None:
        """For ever: stays connected to the one that leads."""
        while True:
            try:
                await self._look()
            except ConnectionError:
                pass  # The next look may find it.
            except Exception:
                logger.exception("Looking up the leading scheduler failed")
            await asyncio.sleep(self._look_interval_s)

    async def _connected(self) -> _Connection:
        if self._connection is not None and self._connection.open:
            return self._connection
        return await self._look()

    async def _look(self) -> _Connection:
        """Everybody who looks at the same time looks once."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._connect(), context=self._context)
        return await asyncio.shield(self._looking)

    async def _connect(self) -> _Connection:
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._who_leads()
                last = self._connection
                if last is not None and last.open and last.address == address:
                    return last
                socket = await self._http.ws_connect(
                    address.url,
                    headers={SECRET_HEADER: address.secret, **self._headers},
                    heartbeat=PING_S,
                    timeout=aiohttp.ClientWSTimeout(ws_close=GOODBYE_S),
                    max_msg_size=MAX_FRAME_BYTES,
                )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectionError(f"the scheduler can't be reached: {error!r}") from error
        self._connection = _Connection(address, socket)
        if last is not None:
            await last.hang_up()
        return self._connection


class _Connection:
    """To one scheduler, until one of the two ends."""

    def __init__(self, address: SchedulerAddress, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.address = address
        self.open = True
        self._socket = socket
        self._answers: dict[str, asyncio.Future[Reply]] = {}
        self._outbox: Outbox[Said] = Outbox(self._send, socket.close)
        self._reading = asyncio.get_running_loop().create_task(self._read())

    async def submit(self, ticket: Ticket) -> Reply:
        if not self.open:
            raise ConnectionError(GONE)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._answers[ticket.ticket_id] = answer
        self._outbox.put(ticket)
        try:
            return await answer
        finally:
            self._answers.pop(ticket.ticket_id, None)

    def put(self, said: Closing | FirstToken | EngineReport) -> None:
        """What needs no answer."""
        if not self.open:
            raise ConnectionError(GONE)
        self._outbox.put(said)

    async def hang_up(self) -> None:
        await self._socket.close()

    async def _send(self, said: Sequence[Said]) -> None:
        closings = [one for one in said if isinstance(one, Closing)]
        first_tokens = [one for one in said if isinstance(one, FirstToken)]
        reports = [one for one in said if isinstance(one, EngineReport)]
        # Who has left meanwhile has closed a ticket that was never told: it must not come after that.
        tickets = [one for one in said if isinstance(one, Ticket) and self._waits(one.ticket_id)]
        if closings or tickets or first_tokens or reports:
            await self._socket.send_bytes(encode(Told(closings, tickets, first_tokens, reports)))

    async def _read(self) -> None:
        try:
            async for frame in self._socket:
                if frame.type is not aiohttp.WSMsgType.BINARY:
                    break
                answers = decode_answers(frame.data)
                self._settle(answers.grants)
                self._settle(answers.refusals)
        except ValueError as error:
            logger.error("Undecodable frame from the scheduler: %s", error)
        finally:
            self.open = False
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ConnectionError(GONE))
            await self._socket.close()

    def _settle(self, replies: dict[str, Grant] | dict[str, Refusal]) -> None:
        for ticket_id, reply in replies.items():
            if self._waits(ticket_id):
                self._answers[ticket_id].set_result(reply)

    def _waits(self, ticket_id: str) -> bool:
        answer = self._answers.get(ticket_id)
        return answer is not None and not answer.done()
