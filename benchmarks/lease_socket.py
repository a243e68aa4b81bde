"""The scheduler of `app` behind a socket of its own: what the way over Serve's handles could be instead.

A gateway keeps one WebSocket; what is called in one turn of its event loop leaves in one frame, answers
likewise. Nothing of the application uses it: whoever connects is trusted, as pickle trusts its sender.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from aiohttp import web

from app.config import ApplicationConfig
from app.serving.scheduler import SchedulerReplica


class SocketScheduler:
    """An actor."""

    def __init__(self, config: ApplicationConfig) -> None:
        self._scheduler = SchedulerReplica(config)
        self._running: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """Its URL."""
        application = web.Application()
        application.router.add_get("/", self._talk)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}/"

    async def _talk(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        outbox = Outbox(socket.send_bytes)
        async for frame in socket:
            for number, method, arguments in pickle.loads(frame.data):
                self._run(self._answer(outbox, number, getattr(self._scheduler, method)(*arguments)))
        return socket

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, outbox: Outbox, number: int, call: Coroutine[Any, Any, Any]) -> None:
        outbox.put((number, await call))


class SocketHandle:
    """Called as a handle of Serve's: `await handle.acquire.remote(ticket)`. It connects at the first call."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        self._outbox: Outbox | None = None
        self._connecting: asyncio.Task[Outbox] | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._last = 0

    def __getattr__(self, method: str) -> _Method:
        return _Method(self, method)

    async def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if self._outbox is None:
            self._connecting = self._connecting or asyncio.create_task(self._connect())
            self._outbox = await self._connecting
        self._last = number = self._last + 1
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        self._outbox.put((number, method, arguments))
        return await answer

    async def disconnect(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _connect(self) -> Outbox:
        self._session = aiohttp.ClientSession()
        socket = await self._session.ws_connect(self._url, compress=0)
        self._reading = asyncio.create_task(self._read(socket))
        return Outbox(socket.send_bytes)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for frame in socket:
            for number, answer in pickle.loads(frame.data):
                self._answers.pop(number).set_result(answer)


class _Method:
    def __init__(self, handle: SocketHandle, name: str) -> None:
        self._handle = handle
        self._name = name

    def remote(self, *arguments: Any) -> Coroutine[Any, Any, Any]:
        return self._handle.call(self._name, arguments)


class Outbox:
    """What is put in before the loop's next turn is sent as one frame."""

    def __init__(self, send: Callable[[bytes], Coroutine[Any, Any, None]]) -> None:
        self._send = send
        self._waiting: list[Any] = []
        self._sending: asyncio.Task[None] | None = None

    def put(self, message: Any) -> None:
        self._waiting.append(message)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.get_running_loop().create_task(self._send_all())

    async def sent(self) -> None:
        """All that has been put in."""
        if self._sending is not None:
            await self._sending

    async def _send_all(self) -> None:
        while self._waiting:
            frame, self._waiting = self._waiting, []
            await self._send(pickle.dumps(frame, pickle.HIGHEST_PROTOCOL))
