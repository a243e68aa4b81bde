"""A question to an engine's private port, which takes no lease."""

from __future__ import annotations

import aiohttp

from app.contract import SECRET_HEADER, EnginePort


async def ask(http: aiohttp.ClientSession, engine: EnginePort, path: str, timeout_s: float) -> bytes | None:
    """The body of the answer; None where there is none within the time, or another than 200."""
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    headers = {SECRET_HEADER: engine.secret}
    try:
        async with http.get(engine.url(path), headers=headers, timeout=timeout) as response:
            return await response.read() if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None
