"""Beside bare vLLM, same model and same engine arguments: first token, gap, throughput.

ratio = ours / bare vLLM; pairs alternate, the first is discarded, medians are reported.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from app.config_file import load_applications
from benchmarks.servers import Server, bare_vllm, ours


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one server."""

    ttft_ms: float
    gap_ms: float
    tokens_per_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("serve_configs/smollm2-cpu.yaml"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="tokens a stream")
    parser.add_argument("--streams", type=int, default=32, help="for the throughput")


def run(options: argparse.Namespace) -> dict[str, Any]:
    (application,) = load_applications(options.config)
    model = application.args.model.name
    with bare_vllm(options.config) as bare, ours(options.config) as own:
        pairs = [
            tuple(asyncio.run(_sample(server, model, options)) for server in (bare, own))
            for _ in range(options.pairs + 1)
        ][1:]
    return {
        name: _compared([getattr(b, name) for b, _ in pairs], [getattr(o, name) for _, o in pairs])
        for name in ("ttft_ms", "gap_ms", "tokens_per_s")
    }


def table(figures: dict[str, Any]) -> str:
    lines = [f"{'':16}{'bare vLLM':>12}{'ours':>12}{'ratio':>8}   (ratios of the pairs)"]
    for name, row in figures.items():
        ratios = " ".join(f"{ratio:.2f}" for ratio in row["ratios"])
        lines.append(f"{name:16}{row['bare']:12.2f}{row['ours']:12.2f}{row['ratio']:8.2f}   {ratios}")
    return "\n".join(lines)


def _compared(bare: list[float], own: list[float]) -> dict[str, Any]:
    ratios = [o / b for b, o in zip(bare, own, strict=True)]
    return {
        "bare": statistics.median(bare),
        "ours": statistics.median(own),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


async def _sample(server: Server, model: str, options: argparse.Namespace) -> Sample:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(server.url, connector=connector) as http:
        ttft_s, gaps_s = await _stream(http, model, "One stream.", options.tokens)
        started_s = time.perf_counter()
        prompts = [f"Stream number {number}." for number in range(options.streams)]
        await asyncio.gather(*(_stream(http, model, prompt, options.tokens) for prompt in prompts))
        elapsed_s = time.perf_counter() - started_s
    rate = options.streams * options.tokens / elapsed_s
    return Sample(ttft_s * 1000, statistics.median(gaps_s) * 1000, rate)


async def _stream(
    http: aiohttp.ClientSession, model: str, prompt: str, tokens: int
) -> tuple[float, list[float]]:
    """TTFT and the gaps between chunks, seconds. Raises when a token is missing."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    body |= {"temperature": 0.0, "stream_options": {"include_usage": True}}
    sent_s = time.perf_counter()
    times_s: list[float] = []
    last = b""
    async with http.post("/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                times_s.append(time.perf_counter())
                last = line
    # A chunk may hold two tokens (a character of several), so the engine's own count tells.
    usage = json.loads(last.removeprefix(b"data: ")).get("usage") or {}
    if usage.get("completion_tokens") != tokens:
        raise RuntimeError(f"{usage} instead of {tokens} tokens")
    times_s.pop()
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(times_s)]
    return times_s[0] - sent_s, gaps_s
