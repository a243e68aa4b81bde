"""The HTTP face in this process, over an engine that answers everything: what gets past the face shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from tokenizers import Tokenizer, models, pre_tokenizers

from app.config import StatusConfig
from app.flow.config import FlowConfig
from app.gateway.exchange import Exchange
from app.gateway.http import HttpFace
from app.gateway.incoming import Incoming
from app.gateway.requests import Window
from app.gateway.status import StatusFace
from app.gateway.tenants import ApiKeys, Tenants
from app.gateway.tokens import TokenCounter
from app.limits import DEFAULT_LIMITS, RequestLimits
from tests.fakes import TIERS, EngineRequest, FakeControlPlane, FakeEngine, soon
from tests.security.corpus import MODEL, Hostile

OPEN = ApiKeys({}, open_without_keys=True)
LOCAL = ("127.0.0.1", 40000)


def byte_counter() -> TokenCounter:
    """A tokenizer of bytes: a text has as many tokens as bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return TokenCounter(tokenizer)


def window(limits: RequestLimits = DEFAULT_LIMITS, max_model_len: int = 2048) -> Window:
    return Window(MODEL, max_model_len, byte_counter(), TIERS, 256, limits)


@dataclass
class Answer:
    """What a client gets."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def error(self) -> dict[str, object]:
        return json.loads(self.body)["error"]


class Site:
    """Asks the face by ASGI messages, and keeps what its engine was sent."""

    def __init__(self, face: HttpFace, control: FakeControlPlane, engine: FakeEngine) -> None:
        self.face = face
        self.control = control
        self.engine = engine
        self.reached: list[EngineRequest] = []

    @classmethod
    @asynccontextmanager
    async def started(
        cls, keys: Tenants = OPEN, limits: RequestLimits = DEFAULT_LIMITS, max_model_len: int = 2048
    ) -> AsyncIterator[Site]:
        async with FakeEngine.started() as engine, aiohttp.ClientSession() as http:
            control = FakeControlPlane()
            status = StatusFace(control, http, StatusConfig(), keys)
            exchange = Exchange(control, http, TIERS, 60.0, 60.0)
            incoming = Incoming(FlowConfig(), 2**30)
            face = HttpFace(exchange, control, window(limits, max_model_len), keys, status, incoming)
            site = cls(face, control, engine)
            answering = asyncio.create_task(site._answer_all())
            yield site
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await answering

    async def send(self, hostile: Hostile) -> Answer:
        headers = [(name.lower().encode(), value.encode()) for name, value in hostile.headers.items()]
        return await self.ask(hostile.method, hostile.path, hostile.body, headers)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: list[tuple[bytes, bytes]] = [],  # noqa: B006
        client: tuple[str, int] | None = LOCAL,
    ) -> Answer:
        self.control.script.clear()
        self.control.script.append(self.engine.grant)
        answer = Answer()
        sent = False

        async def receive() -> dict:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()
            sent = True
            return {"type": "http.request", "body": body}

        async def send(message: dict) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")

        scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": client}
        await soon(self.face(scope, receive, send))
        return answer

    async def _answer_all(self) -> None:
        while True:
            request = await self.engine.arrived.get()
            self.reached.append(request)
            request.answer(200, b'{"id":"x"}')
