"""What the ranks of all engines hold and how busy they are, each labelled with its replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp

from app.contract import RANKS_PATH, EnginePort
from app.gateway.engines import ask

# The workers answer between two of their steps; an engine that takes longer is left out.
ASK_TIMEOUT_S = 35.0


async def engine_ranks(http: aiohttp.ClientSession, engines: Sequence[EnginePort]) -> list[dict[str, Any]]:
    """One entry a rank of every engine that answers."""
    answers = await asyncio.gather(*(ask(http, engine, RANKS_PATH, ASK_TIMEOUT_S) for engine in engines))
    return [
        {"replica": engine.replica_id, **rank}
        for engine, answer in zip(engines, answers, strict=True)
        for rank in (json.loads(answer)["ranks"] if answer is not None else [])
    ]
