"""Questions to an engine's private port, which take no lease."""

from __future__ import annotations

import aiohttp

from app.contract import HEALTH_PATH, SECRET_HEADER, EnginePort


async def ask(http: aiohttp.ClientSession, engine: EnginePort, path: str, timeout_s: float) -> bytes | None:
    """The body of the answer; None where there is none within the time, or another than 200."""
    try:
        return await _get(http, engine, path, timeout_s)
    except (aiohttp.ClientError, TimeoutError):
        return None


async def is_lost(http: aiohttp.ClientSession, engine: EnginePort, timeout_s: float) -> bool:
    """It says nothing within the time, or that it is ill. Not where it takes no more connections: it drains,
    or it has died, which breaks those that it had."""
    try:
        return await _get(http, engine, HEALTH_PATH, timeout_s) is None
    except aiohttp.ClientConnectorError as error:
        return not isinstance(error.os_error, ConnectionRefusedError)
    except (aiohttp.ClientError, TimeoutError):
        return True


async def _get(http: aiohttp.ClientSession, engine: EnginePort, path: str, timeout_s: float) -> bytes | None:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    headers = {SECRET_HEADER: engine.secret}
    async with http.get(engine.url(path), headers=headers, timeout=timeout) as response:
        return await response.read() if response.status == 200 else None
