"""The load client against a server that only writes: what it can read at most, and what a token costs it.

Flat out, tokens that wait in the socket are read together; paced, as an engine's steps pace them, each is
read alone. `ceiling_tokens_per_s` is what one core of the client reads of such. A figure of another benchmark
that comes near it is the client's, not the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial

from app.load.loops import ClosedLoop, Load, run_load
from app.load.streams import PATHS, Call

PATH, completion = PATHS["completions"]
HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    b"x-predicted-ttft-ms: 5\r\n\r\n"
)
# As long as vLLM's.
TOKEN = {
    "id": "cmpl-8ad19f3c5a5a4a4a8d4b2ba5b4d0a001",
    "object": "text_completion",
    "created": 1764000000,
    "model": "null",
    "choices": [{"index": 0, "text": " token", "logprobs": None, "finish_reason": None, "stop_reason": None}],
    "usage": None,
}


@contextlib.asynccontextmanager
async def null_server(gap_s: float = 0.0) -> AsyncIterator[str]:
    """Yields its URL. It answers `max_tokens` events, one write each, `gap_s` apart."""
    server = await asyncio.start_server(partial(_serve, gap_s), "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


async def _serve(gap_s: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await _answer(writer, json.loads(await reader.readexactly(length))["max_tokens"], gap_s)
    writer.close()


async def _answer(writer: asyncio.StreamWriter, tokens: int, gap_s: float) -> None:
    writer.write(HEAD)
    token = _event(TOKEN)
    for _ in range(tokens):
        writer.write(token)
        await writer.drain()
        # Also where there is no gap: it is the other streams' turn.
        await asyncio.sleep(gap_s)
    writer.write(_event(TOKEN | {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": tokens}}))
    writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _event(content: dict[str, object]) -> bytes:
    return _chunk(b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=300, help="of a stream")
    parser.add_argument("--requests", type=int, default=64)
    # A hundred steps a second: faster than any engine on this kind of machine with so many streams.
    parser.add_argument("--gap-ms", type=float, default=10.0, help="between the tokens of a paced stream")


def run(options: argparse.Namespace) -> dict[str, float]:
    calls = [
        Call(f"n{number}", PATH, completion("null", "null", options.tokens))
        for number in range(options.requests)
    ]
    flat_out = asyncio.run(_measure(ClosedLoop(calls, options.streams), 0.0))
    paced = asyncio.run(_measure(ClosedLoop(calls, options.streams), options.gap_ms / 1000))
    token_us = paced.client_cpu_s / paced.output_tokens * 1e6
    return {
        "flat_out_tokens_per_s": round(flat_out.output_tokens / flat_out.elapsed_s),
        "paced_tokens_per_s": round(paced.output_tokens / paced.elapsed_s),
        "paced_cpu_us_per_token": round(token_us, 1),
        "ceiling_tokens_per_s": round(1e6 / token_us),
    }


async def _measure(loop: ClosedLoop, gap_s: float) -> Load:
    async with null_server(gap_s) as url:
        return await asyncio.to_thread(run_load, url, loop)


def table(figures: dict[str, float]) -> str:
    return "\n".join(f"{name:>24} {value:,}" for name, value in figures.items())
