"""Questions to an engine's private port, which take no lease."""

from __future__ import annotations

import asyncio
import logging

import aiohttp

from app import used
from app.contract import HEALTH_PATH, LEASES_PATH, SECRET_HEADER, EnginePort, Metered

logger = logging.getLogger("ray.serve")

# How long an engine may take to end a request that was broken off, and to say what it used.
SETTLE_TIMEOUT_S = 10.0
# A machine that is there takes or refuses a connection within this.
CONNECT_TIMEOUT_S = 1.0


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


async def used_under(http: aiohttp.ClientSession, engine: EnginePort, lease_id: str) -> Metered | None:
    """Of a request that was broken off: waits until the engine has ended it. None where the engine knows
    nothing of it, or says nothing in time. Raises aiohttp.ClientConnectionError where it is lost."""
    try:
        told = await _get(http, engine, LEASES_PATH + lease_id, SETTLE_TIMEOUT_S)
    except aiohttp.ClientConnectionError:
        raise
    except (aiohttp.ClientError, TimeoutError):
        logger.warning("No usage for %s: its engine did not answer.", lease_id)
        return None
    return None if told is None else used.from_text(told)


async def has_ended(engine: EnginePort) -> bool:
    """Its process. A port is one process's for as long as that lives: refused there, it has ended."""
    try:
        connecting = asyncio.open_connection(engine.host, engine.port)
        _, writer = await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return False


async def _get(http: aiohttp.ClientSession, engine: EnginePort, path: str, timeout_s: float) -> bytes | None:
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    headers = {SECRET_HEADER: engine.secret}
    async with http.get(engine.url(path), headers=headers, timeout=timeout) as response:
        return await response.read() if response.status == 200 else None
