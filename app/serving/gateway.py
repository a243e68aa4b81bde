"""The gateway deployment: Serve's ingress over HTTP, and the methods of the Python handle."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from ray import serve
from ray.serve.handle import DeploymentHandle

from app import tracing
from app.config import ApplicationConfig
from app.engine import models
from app.gateway.calls import CallFace
from app.gateway.exchange import Exchange
from app.gateway.grammars import COMPILING_PARSERS
from app.gateway.http import HttpFace
from app.gateway.incoming import Incoming
from app.gateway.key_sources import KeyRing
from app.gateway.requests import Window
from app.gateway.status import StatusFace
from app.gateway.tiers import Tiers
from app.gateway.tokens import TokenCounter
from app.serving.control import ServeControlPlane
from app.serving.entrance import require_loopback
from app.serving.refusals import NoRefusals

logger = logging.getLogger("ray.serve")

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
# Serve's, which can be set from outside only, and what is so without them.
_SETTINGS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "every token passes Serve's Python proxy, which costs throughput",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "tokens change threads on their way, which costs throughput, and what "
    "a slow client has yet to take piles up here: gateway.reader_stall_s does nothing",
}


@serve.ingress()
class GatewayReplica:
    """HTTP and handle calls take the same way: validation, lease, engine."""

    async def __init__(  # type: ignore[misc]
        self, config: ApplicationConfig, scheduler: DeploymentHandle, engine: DeploymentHandle
    ) -> None:
        """`engine` is not called: Serve deploys what the ingress is bound to."""
        logger.addFilter(NoRefusals())
        for name, without in _SETTINGS.items():
            if os.environ.get(name) != "1":
                logger.warning(
                    "%s is not 1: %s. Set it before Ray starts; scripts/serve does.", name, without
                )
        tracing.configure(config.tracing, "promiseserve-gateway")
        gateway_id = serve.get_replica_context().replica_id.unique_id
        # One connection a running request: the scheduler bounds them.
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        self._control = ServeControlPlane(scheduler, gateway_id, self._http)
        self._line = asyncio.create_task(self._control.keep_line())
        tiers = Tiers(config.flow)
        self._exchange = Exchange(
            self._control,
            self._http,
            tiers,
            config.gateway.engine_silence_s,
            config.gateway.engine_heartbeat_s,
        )
        self._window = Window(
            config.model.name,
            config.engine.max_model_len,
            _token_counter(config.model.source),
            tiers,
            config.flow.route.tokens_per_block,
            config.limits,
            config.engine.tool_call_parser is not None,
            config.engine.reasoning_parser in COMPILING_PARSERS,
        )
        self._keys = key_ring(config)
        if self._keys.is_open:
            await require_loopback()
        self._reader_stall_s = config.gateway.reader_stall_s
        self._calls = CallFace(self._exchange, self._window, self._keys, self._reader_stall_s)
        self._incoming = Incoming(config.flow, config.scheduler.max_bytes)
        self._status = StatusFace(self._control, self._http, config.status, self._keys)

    async def __serve_build_asgi_app__(self) -> HttpFace:
        """Serve's hook: the ASGI application, built inside the replica."""
        return HttpFace(
            self._exchange,
            self._control,
            self._window,
            self._keys,
            self._status,
            self._incoming,
            self._reader_stall_s,
        )

    async def chat(self, body: dict[str, Any], api_key: str | None = None) -> dict[str, Any]:
        """A chat completion. `body` as for OpenAI's API; the key as in HTTP's header. Raises ApiError."""
        return await self._calls.call(_CHAT, body, api_key)

    async def chat_stream(
        self, body: dict[str, Any], api_key: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Its chunks as they are made; call it with `handle.options(stream=True)`. Raises ApiError."""
        async for chunk in self._calls.stream(_CHAT, body, api_key):
            yield chunk

    async def completions(self, body: dict[str, Any], api_key: str | None = None) -> dict[str, Any]:
        """A text completion. Raises ApiError."""
        return await self._calls.call(_COMPLETIONS, body, api_key)

    async def completions_stream(
        self, body: dict[str, Any], api_key: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Its chunks as they are made. Raises ApiError."""
        async for chunk in self._calls.stream(_COMPLETIONS, body, api_key):
            yield chunk

    async def __del__(self) -> None:
        self._line.cancel()
        await self._http.close()


def key_ring(config: ApplicationConfig) -> KeyRing:
    """Raises ValueError when a source of keys can't be used, or there is none and that is not meant."""
    return KeyRing(
        config.api_keys,
        file=config.api_keys_file,
        variable=config.api_keys_env,
        open_without_keys=config.open_without_keys,
    )


def _token_counter(source: str) -> TokenCounter | None:
    """None where the tokenizer can't be had here: then only the engine checks the length of a prompt."""
    try:
        return TokenCounter.from_files(
            models.model_file(source, "tokenizer.json"), models.model_file(source, "config.json")
        )
    except OSError as error:
        logger.warning("Prompts are not counted before the engine: %s", error)
        return None
