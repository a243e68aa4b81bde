"""`python -m benchmarks soak`: a mixed load for minutes, and whether anything grows that should not.

Streams, whole answers, clients that leave amid a stream, clients that read nothing, and bad input, over one
application with an engine of the tiny Llama. Every part's memory, descriptors and threads are sampled; what a
part has in the last third of the time is compared with the first third after a warm-up. At the end no lease
and no ticket may be left. Not a test: it takes as long as it is told.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil

from benchmarks.chaos.cell import read
from benchmarks.chaos.command import MODEL, SECTIONS
from benchmarks.chaos.parts import TITLES, Processes, title, tree
from benchmarks.configs import changed
from benchmarks.servers import ours

Json = dict[str, Any]
# Caches of code and allocators fill in it.
WARM_UP_SHARE = 0.25
# Growth below both is allocator noise; memory is in MiB.
ALLOWED_GROWTH = {"memory_mib": (0.10, 30.0), "descriptors": (0.10, 10.0), "threads": (0.10, 5.0)}
REST_TIMEOUT_S = 60.0
KINDS = ("stream", "whole", "leaves", "reads_nothing", "bad_input")


@dataclass(frozen=True, slots=True)
class Sample:
    """Sums over the processes of a part."""

    at_s: float
    memory_mib: float
    descriptors: float
    threads: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=12, help="at a time; an engine has four places")
    parser.add_argument("--every-s", type=float, default=5.0, help="between two samples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--config", type=Path, default=Path("serve_configs/smollm2-cpu.yaml"))


def run(options: argparse.Namespace) -> Json:
    sections = SECTIONS | {"replicas": {"min": 1, "max": 1, "drain_s": 20}}
    with tempfile.TemporaryDirectory() as folder:
        config = changed(options.config, Path(folder), "soak", sections)
        with ours(config) as server:
            return asyncio.run(_soak(options, server.url, tree(server.pid)))


async def _soak(options: argparse.Namespace, url: str, processes: Processes) -> Json:
    end_s = time.monotonic() + options.minutes * 60
    started_s = time.monotonic()
    fates: Counter[str] = Counter()
    samples: dict[str, list[Sample]] = {part: [] for part in TITLES}
    clients = [
        asyncio.create_task(_client(url, end_s, random.Random(options.seed + number), fates))
        for number in range(options.clients)
    ]
    while time.monotonic() < end_s:
        for part, sample in sampled(processes, time.monotonic() - started_s).items():
            samples[part].append(sample)
        await asyncio.sleep(options.every_s)
    await asyncio.gather(*clients)
    left = await _left(url)
    parts = {part: growth(series) for part, series in samples.items() if len(series) > 3}
    leaks = [f"{part}.{what}" for part, grown in parts.items() for what in grown if grown[what]["leaks"]]
    if left:
        leaks.append("leases")
    return {"minutes": options.minutes, "fates": dict(fates), "left": left, "parts": parts, "leaks": leaks}


async def _client(url: str, end_s: float, random_: random.Random, fates: Counter[str]) -> None:
    async with httpx.AsyncClient(timeout=120.0, base_url=url) as http:
        while time.monotonic() < end_s:
            kind = random_.choice(KINDS)
            try:
                fates[f"{kind}: {await _ask(http, kind, random_)}"] += 1
            except httpx.HTTPError as error:
                fates[f"{kind}: {type(error).__name__}"] += 1


async def _ask(http: httpx.AsyncClient, kind: str, random_: random.Random) -> str:
    prompt, tokens = f"soak {random_.random()} " * random_.randint(1, 20), random_.randint(4, 128)
    body: Json = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
    if kind == "bad_input":
        body["max_tokens"] = "many"
    if kind in ("whole", "bad_input"):
        return str((await http.post("/v1/completions", json=body)).status_code)
    async with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        if kind == "reads_nothing":
            await asyncio.sleep(1.0)
            return str(response.status_code)
        async for line in response.aiter_lines():
            if kind == "leaves" and line:
                break
    return str(response.status_code)


async def _left(url: str) -> int:
    """Leases and tickets that are left when there was time to give them back; -1: it does not say."""
    left, deadline_s = -1, time.monotonic() + REST_TIMEOUT_S
    async with httpx.AsyncClient(timeout=5.0) as http:
        while left and time.monotonic() < deadline_s:
            figures = await read(http, url)
            left = int(figures.leases + figures.queued) if figures.known else -1
            await asyncio.sleep(0.5)
    return left


def sampled(processes: Processes, at_s: float) -> dict[str, Sample]:
    """Of each part that has a process."""
    sums: dict[str, list[float]] = {}
    for process in processes():
        name = title(process)
        part = next((part for part, words in TITLES.items() if words in name), None)
        if part is None:
            continue
        with contextlib.suppress(psutil.Error):
            figures = (process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())
            sums[part] = [one + other for one, other in zip(sums.get(part, [0.0] * 3), figures, strict=True)]
    return {part: Sample(at_s, *figures) for part, figures in sums.items()}


def growth(series: Sequence[Sample]) -> Json:
    """Medians of the first and of the last third after the warm-up, and whether the difference is a leak."""
    warm = series[int(len(series) * WARM_UP_SHARE) :]
    third = max(1, len(warm) // 3)
    found: Json = {}
    for what, (share, amount) in ALLOWED_GROWTH.items():
        first = median(getattr(sample, what) for sample in warm[:third])
        last = median(getattr(sample, what) for sample in warm[-third:])
        grown = last - first
        leaks = grown > share * first and grown > amount
        found[what] = {"first": round(first, 1), "last": round(last, 1), "leaks": leaks}
    return found


def table(figures: Json) -> str:
    lines = [
        f"{figures['minutes']} minutes",
        "",
        "| part | memory MiB | descriptors | threads |",
        "| --- | --- | --- | --- |",
    ]
    for part, grown in figures["parts"].items():
        cells = [f"{grown[what]['first']} to {grown[what]['last']}" for what in ALLOWED_GROWTH]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    lines.append(f"Ended: {figures['fates']}. Left: {figures['left']}. Leaks: {figures['leaks'] or 'none'}.")
    return "\n".join(lines)
