"""What arrives: a recorded trace or a seeded generator, spread over tenants and classes."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

# A prompt that belongs to a session grows by its history; blocks are hashed at this size.
PREFIX_BLOCK_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it will happen; the output's length is known to the simulator only."""

    request_id: str
    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    tenant: str = "default"
    class_name: str = ""
    prefix_blocks: tuple[int, ...] = ()
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class Mix:
    """How requests spread over tenants and classes."""

    tenants: int = 20
    # Tenant k sends in proportion to 1 / k ** zipf.
    zipf: float = 1.0
    classes: tuple[str, ...] = ("interactive", "standard", "batch")
    shares: tuple[float, ...] = (1.0, 1.0, 1.0)


def read_azure_trace(path: Path) -> list[Request]:
    """A trace of AzurePublicDataset's LLM inference set: TIMESTAMP, ContextTokens, GeneratedTokens.

    Arrival times count from the first row; one without a zone is UTC's. ValueError names the row that can't
    be read.
    """
    requests: list[Request] = []
    start: datetime | None = None
    with path.open(newline="") as lines:
        for number, row in enumerate(csv.DictReader(lines)):
            try:
                at = datetime.fromisoformat(row["TIMESTAMP"])
                at = at if at.tzinfo else at.replace(tzinfo=UTC)
                prompt, output = int(row["ContextTokens"]), int(row["GeneratedTokens"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, row {number + 1}: {row}: {error}") from error
            start = start or at
            arrived_s = (at - start).total_seconds()
            requests.append(Request(f"q{number}", arrived_s, max(1, prompt), max(1, output)))
    return sorted(requests, key=lambda request: request.arrived_s)


def spread(requests: Sequence[Request], mix: Mix, seed: int) -> list[Request]:
    """The same arrivals and lengths, given to tenants and classes by chance."""
    source = random.Random(f"spread {seed}")
    names = [f"tenant-{rank:02d}" for rank in range(1, mix.tenants + 1)]
    weights = [rank**-mix.zipf for rank in range(1, mix.tenants + 1)]
    tenants = source.choices(names, weights, k=len(requests))
    classes = source.choices(mix.classes, mix.shares, k=len(requests))
    return [
        replace(request, tenant=tenant, class_name=name)
        for request, tenant, name in zip(requests, tenants, classes, strict=True)
    ]


def at_rate(requests: Sequence[Request], rate_per_s: float) -> list[Request]:
    """The same requests with their arrival times stretched to a mean rate."""
    span_s = requests[-1].arrived_s - requests[0].arrived_s
    scale = (len(requests) - 1) / span_s / rate_per_s if span_s > 0 else 1.0
    return [replace(request, arrived_s=request.arrived_s * scale) for request in requests]


def poisson(count: int, rate_per_s: float, seed: int, burst: float = 1.0) -> list[Request]:
    """Arrivals whose gaps are gamma distributed with a coefficient of variation of `burst` (1: Poisson).

    Lengths are log-normal with the means of the Azure conversation trace, 1,155 in and 211 out.
    """
    source = random.Random(f"poisson {seed}")
    shape = burst**-2
    now_s, requests = 0.0, []
    for number in range(count):
        now_s += source.gammavariate(shape, 1.0 / (shape * rate_per_s))
        prompt = min(16_000, max(1, round(source.lognormvariate(6.55, 1.0))))
        output = min(2_000, max(1, round(source.lognormvariate(5.0, 0.85))))
        requests.append(Request(f"q{number}", now_s, prompt, output))
    return requests


def sessions(count: int, turns: int, rate_per_s: float, seed: int) -> list[Request]:
    """Conversations whose every turn repeats the one before: what prefix affinity is for."""
    source = random.Random(f"sessions {seed}")
    opened: dict[int, tuple[int, ...]] = {}
    now_s, requests = 0.0, []
    live = max(1, count // turns)
    for number in range(count):
        now_s += source.expovariate(rate_per_s)
        session = source.randrange(live)
        blocks = opened.get(session, ()) + tuple(source.getrandbits(60) for _ in range(2))
        opened[session] = blocks
        prompt = len(blocks) * PREFIX_BLOCK_TOKENS + source.randrange(1, PREFIX_BLOCK_TOKENS)
        request = Request(f"q{number}", now_s, prompt, source.randrange(20, 300))
        requests.append(replace(request, prefix_blocks=blocks, session_id=f"s{session}"))
    return requests
