"""What the ranks of all engines hold and how busy they are, each labelled with its replica."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp

from app.contract import RANKS_PATH, SECRET_HEADER, EnginePort

# The workers answer between two of their steps; an engine that takes longer is left out.
ASK_TIMEOUT_S = 35.0


async def engine_ranks(http: aiohttp.ClientSession, engines: Sequence[EnginePort]) -> list[dict[str, Any]]:
    """One entry a rank of every engine that answers."""
    answers = await asyncio.gather(*(_ask(http, engine) for engine in engines))
    return [
        {"replica": engine.replica_id, **rank}
        for engine, ranks in zip(engines, answers, strict=True)
        for rank in ranks
    ]


async def _ask(http: aiohttp.ClientSession, engine: EnginePort) -> list[dict[str, Any]]:
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    headers = {SECRET_HEADER: engine.secret}
    try:
        async with http.get(engine.url(RANKS_PATH), headers=headers, timeout=timeout) as response:
            return (await response.json())["ranks"] if response.status == 200 else []
    except (aiohttp.ClientError, TimeoutError):
        return []
