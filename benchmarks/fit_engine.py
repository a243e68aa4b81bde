"""Fit the simulator's engine to a running OpenAI-compatible server.

`python -m benchmarks fit-engine --url http://127.0.0.1:8000 --model NAME` sends batches of streams and prints
the coefficients of `placement.simulation.engine.LinearStep`: base and per-sequence time from the mean time
between tokens at several batch sizes, per-prompt-token time from the first token of lone prompts.
"""

from __future__ import annotations

import argparse
import json
import secrets
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean, linear_regression

BATCHES = (1, 2, 4, 8, 16, 32)
PROMPT_WORDS = (32, 128, 512)
OUTPUT_TOKENS = 64
TIMEOUT_S = 600.0
# Of this process: the server's prefix cache has what another one sent. Short, so that what all prompts begin
# with is no whole block of the cache.
NONCE = secrets.token_hex(4)


@dataclass(frozen=True, slots=True)
class Stream:
    ttft_s: float
    itl_s: float

    @classmethod
    def of(cls, started_s: float, chunks_s: Sequence[float]) -> Stream:
        """From the times of its chunks. There are fewer than tokens where a server joins some; the last one
        holds the last token, and there are always OUTPUT_TOKENS (`ignore_eos`)."""
        return cls(chunks_s[0] - started_s, (chunks_s[-1] - chunks_s[0]) / (OUTPUT_TOKENS - 1))


def prompt(words: int, salt: int) -> str:
    """The salt is this prompt's own: nothing of it is found in the prefix cache."""
    return f"{NONCE} {salt} " + "word " * words


def stream(url: str, model: str, words: int, salt: int) -> Stream:
    """One streamed completion."""
    body = {"model": model, "prompt": prompt(words, salt), "max_tokens": OUTPUT_TOKENS}
    body |= {"ignore_eos": True, "stream": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    started_s, chunks_s = time.perf_counter(), []
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                chunks_s.append(time.perf_counter())
    return Stream.of(started_s, chunks_s)


def fit(url: str, model: str) -> dict[str, float]:
    stream(url, model, 8, 0)
    itls = []
    for batch in BATCHES:
        with ThreadPoolExecutor(batch) as pool:
            streams = list(pool.map(lambda n, b=batch: stream(url, model, 8, 1000 * b + n), range(batch)))
        itls.append(fmean(one.itl_s for one in streams))
    sequence_s, base_s = linear_regression(BATCHES, itls)
    ttfts = [fmean(stream(url, model, words, words + n).ttft_s for n in range(3)) for words in PROMPT_WORDS]
    prefill_s, _ = linear_regression(PROMPT_WORDS, ttfts)
    return {"base_s": base_s, "sequence_s": sequence_s, "prefill_token_s": prefill_s, "context_token_s": 0.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)


def run(options: argparse.Namespace) -> dict[str, float]:
    return fit(options.url, options.model)


def table(figures: dict[str, float]) -> str:
    return "\n".join(f"{name:>16} {value:g}" for name, value in figures.items())
