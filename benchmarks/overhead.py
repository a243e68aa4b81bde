"""What a system puts between the client and the engine: beside bare vLLM, a model that costs next to nothing.

One server runs at a time, for an idle one would cost CPU too (Ray's daemons never rest, and two engines do
not fit two cores): each round starts a system, measures, ends it, and does the same with the next, bare vLLM
among them, in an order that turns by one each round. Half of the cores are the engine's: as on a machine with
GPUs, what serves does not take its time from what computes (two threads on two cores gain bare vLLM nothing).
A pair is bare vLLM and another system of one round.
A visit sends at each number of streams a warm-up that is discarded, then closed-loop completions of
`--tokens` tokens. Same engine arguments, same threads; CPU seconds are those of all processes of the server
but vLLM's engine core and workers, so they hold vLLM's own front end, Ray's daemons and HAProxy. Ratios are
of a pair; medians of the pairs, with 95 % bootstrap intervals. `--systems vllm-mp` is bare vLLM with the
executor that Ray Serve LLM sets on a CPU: what that costs is no fault of Serve's. `vllm-beside-ours` is bare
vLLM beside an application of ours that nobody asks: what Ray and Serve take at rest, on cores that all share.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from app.load.loops import ClosedLoop, Load, load_client
from app.load.streams import COMPLETED, PATHS, Call
from benchmarks import markdown
from benchmarks.configs import TINY_LLAMA, changed
from benchmarks.processes import cpu_outside_engine_s, spent_between_s
from benchmarks.resampling import median_with_interval
from benchmarks.servers import StartError
from benchmarks.systems import System, systems, turned
from placement.plot import Series, scatter

Json = dict[str, Any]
Send = Callable[[ClosedLoop], Load]
BARE = "vllm"
# Whose bound refuses streams that all have to be served here, and one whose requests are of one class here.
OF_OTHER_LOADS = ("vllm-queue-limit", "vllm-priority")
# Tokens of a warm-up stream: connections, caches of code, and the engine's first batch of that size.
WARM_UP_TOKENS = 16
# Requests a stream: at one stream enough for a median, at many enough to last for seconds.
MIN_REQUESTS_PER_STREAM, MAX_REQUESTS_PER_STREAM, REQUESTS = 2, 48, 512


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one server at one number of streams."""

    tokens_per_s: float
    ttft_ms: float
    gap_ms: float
    cpu_s_per_1k_tokens: float


# By system and number of streams, (bare, system) of each pair.
Pairs = dict[str, dict[int, list[tuple[Sample, Sample]]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    others = [name for name in systems(1) if name not in (BARE, *OF_OTHER_LOADS)]
    peers = [name for name in others if not name.startswith(BARE)]
    parser.add_argument("--config", type=Path, default=Path("serve_configs/smollm2-cpu.yaml"))
    parser.add_argument("--systems", nargs="+", choices=others, default=peers)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--pairs", type=int, default=5, help="rounds")
    parser.add_argument("--tokens", type=int, default=64, help="of a stream")
    parser.add_argument("--endpoint", choices=list(PATHS), default="completions")
    parser.add_argument("--engine-threads", type=int, default=max(1, (os.cpu_count() or 1) // 2))
    parser.add_argument("--picture", type=Path, metavar="SVG", help="ratios over streams")


def run(options: argparse.Namespace) -> Json:
    every = systems(1)
    absent = {name: every[name].missing() for name in options.systems}
    measured = [name for name in options.systems if not absent[name]]
    pairs: Pairs = {name: {streams: [] for streams in options.streams} for name in measured}
    with tempfile.TemporaryDirectory() as folder:
        config = _config(options, Path(folder))
        for number in range(options.pairs):
            taken: dict[str, dict[int, Sample]] = {}
            for name in turned([BARE, *measured], number):
                try:
                    taken[name] = _visit(every[name], config, options)
                except StartError as error:
                    if name == BARE:
                        raise
                    # The other systems' pairs are worth more than an early end.
                    print(error, file=sys.stderr)
                    absent[name] = str(error).splitlines()[0]
                    continue
                print(f"round {number + 1} of {options.pairs}: {name}", file=sys.stderr)
            bare = taken.pop(BARE)
            for name, samples in taken.items():
                for streams, sample in samples.items():
                    pairs[name][streams].append((bare[streams], sample))
    pairs = {name: by_streams for name, by_streams in pairs.items() if all(by_streams.values())}
    return _figures(pairs) | {
        "systems": {name: every[name].settings for name in [BARE, *pairs]},
        "missing": {name: why for name, why in absent.items() if why},
        "pairs": options.pairs,
        "engine_threads": options.engine_threads,
    }


def _config(options: argparse.Namespace, folder: Path) -> Path:
    # Room for every stream: a queue is not what is measured.
    engine = {"dtype": "float32", "max_num_seqs": max(32, *options.streams), "cpu_kv_cache_gib": 1}
    return changed(options.config, folder, "overhead", {"model": TINY_LLAMA, "engine": engine})


def _visit(system: System, config: Path, options: argparse.Namespace) -> dict[int, Sample]:
    """Starts it, measures it at every number of streams, and ends it."""
    with system.start(config, options.engine_threads) as server, load_client() as client:
        send = partial(client, server.url)
        samples = {}
        for streams in options.streams:
            _burst(send, f"warm-up {streams}", streams, streams, WARM_UP_TOKENS, options.endpoint)
            samples[streams] = _measure(send, server.pid, streams, options)
    return samples


def _measure(send: Send, pid: int, streams: int, options: argparse.Namespace) -> Sample:
    each = min(MAX_REQUESTS_PER_STREAM, max(MIN_REQUESTS_PER_STREAM, REQUESTS // streams))
    before = cpu_outside_engine_s(pid)
    load = _burst(send, f"{streams}", streams, streams * each, options.tokens, options.endpoint)
    spent_s = spent_between_s(before, cpu_outside_engine_s(pid))
    gaps_ms = [gap_s * 1000 for answer in load.answers for gap_s in answer.gaps_s]
    return Sample(
        tokens_per_s=load.output_tokens / load.elapsed_s,
        ttft_ms=median(answer.ttft_s * 1000 for answer in load.answers if answer.ttft_s is not None),
        gap_ms=median(gaps_ms),
        cpu_s_per_1k_tokens=spent_s / load.output_tokens * 1000,
    )


def _burst(send: Send, name: str, streams: int, count: int, tokens: int, endpoint: str) -> Load:
    """Raises RuntimeError when an answer is not whole: its tokens would be missing in every figure."""
    path, body = PATHS[endpoint]
    # The beginning differs: no prefix is found in the cache.
    prompts = [f"{number}. Request of the burst {name}." for number in range(count)]
    calls = [Call(prompt, path, body(TINY_LLAMA["name"], prompt, tokens)) for prompt in prompts]
    load = send(ClosedLoop(calls, streams))
    bad = [one for one in load.answers if one.outcome != COMPLETED or one.output_tokens != tokens]
    if bad:
        one = bad[0]
        raise RuntimeError(f"{len(bad)} of {count} not whole: {one.outcome} {one.status} {one.code}")
    return load


def _figures(pairs: Pairs) -> Json:
    """By figure, system and number of streams."""

    def each(figure: Callable[[list[tuple[Sample, Sample]]], Any]) -> Json:
        return {
            name: {str(streams): figure(taken) for streams, taken in by_streams.items()}
            for name, by_streams in pairs.items()
        }

    def both(field: str) -> Json:
        """Bare vLLM's is over all pairs."""
        bare = {
            str(streams): median(getattr(bare, field) for by in pairs.values() for bare, _ in by[streams])
            for streams in next(iter(pairs.values()), {})
        }
        return {BARE: bare, **each(lambda taken: median(getattr(other, field) for _, other in taken))}

    return {
        "ratio_to_bare": each(_interval(lambda bare, other: other.tokens_per_s / bare.tokens_per_s)),
        "ttft_overhead_ms": each(_interval(lambda bare, other: other.ttft_ms - bare.ttft_ms)),
        "gap_overhead_ms": each(_interval(lambda bare, other: other.gap_ms - bare.gap_ms)),
        **{name: both(name) for name in ("cpu_s_per_1k_tokens", "tokens_per_s", "ttft_ms", "gap_ms")},
    }


def _interval(
    compare: Callable[[Sample, Sample], float],
) -> Callable[[Sequence[tuple[Sample, Sample]]], dict[str, float]]:
    return lambda taken: median_with_interval([compare(bare, other) for bare, other in taken])


def table(figures: Json) -> str:
    """Markdown: the systems' settings, then one row a system and number of streams."""
    lines = [
        f"{figures['pairs']} pairs, engine of {figures['engine_threads']} thread(s); median [95 % interval].",
        "",
        *(f"- {name}: {settings}" for name, settings in figures["systems"].items()),
        *(f"- {name}: {why}" for name, why in figures["missing"].items()),
        "",
        "| system | streams | tokens/s | ratio to bare | TTFT ms | TTFT overhead ms | gap ms "
        "| CPU s per 1,000 tokens |",
        "| --- " * 8 + "|",
    ]
    for name, by_streams in figures["tokens_per_s"].items():
        lines += [_row(figures, name, streams) for streams in by_streams]
    return "\n".join(lines)


def _row(figures: Json, name: str, streams: str) -> str:
    def of(figure: str) -> float:
        value: float = figures[figure][name][streams]
        return value

    def interval(figure: str, digits: int) -> str:
        return markdown.interval(None if name == BARE else figures[figure][name][streams], digits)

    cells = [name, streams, f"{of('tokens_per_s'):,.0f}", interval("ratio_to_bare", 2)]
    cells += [f"{of('ttft_ms'):.1f}", interval("ttft_overhead_ms", 1), f"{of('gap_ms'):.1f}"]
    return "| " + " | ".join([*cells, f"{of('cpu_s_per_1k_tokens'):.3f}"]) + " |"


def picture(figures: Json) -> str:
    """SVG: the ratio to bare vLLM over the number of streams."""
    series = [
        Series(
            name,
            [
                (float(streams), one["median"], f"{name}, {streams} streams: {one['median']:.2f}")
                for streams, one in by_streams.items()
            ],
            line=True,
        )
        for name, by_streams in figures["ratio_to_bare"].items()
    ]
    return scatter("Tokens/s beside bare vLLM", "streams", "ratio", series)
