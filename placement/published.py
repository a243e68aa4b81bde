"""Published serving runs: how each was made, and the same run in the simulator.

A row states model, GPU, TP, PP, mean lengths and concurrency. What it doesn't state - exact or random
lengths, the token budget, prefix caching, the cache's dtype - decides TTFT as much as the hardware does. The
readings below come from the benchmark behind a row where that is public, else from what the rows themselves
rule out; docs/placement.md says which is which.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from hashlib import sha256
from math import inf
from pathlib import Path
from statistics import fmean

from placement.coefficients import Coefficients
from placement.hardware import Cluster, find_gpu
from placement.memory import BLOCK_TOKENS, plan_memory
from placement.models import find_model
from placement.planner import static_problem
from placement.plans import ParallelPlan
from placement.simulator import Simulation
from placement.step_time import StepModel
from placement.workload import MOST_CLIENTS, Arrivals, Workload, uniform_asks

# Of every system that rows are published for.
NODE_GPUS = 8


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """One row of the CSV; milliseconds are means over requests."""

    id: str
    model: str
    system: str
    fp8: bool
    engine: str
    tensor_parallel: int
    pipeline_parallel: int
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    ttft_ms: float
    tpot_ms: float

    @property
    def fingerprint(self) -> str:
        """The same only for a row that says the same to the last figure: another figure is another run."""
        return sha256(repr(astuple(self)).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a row doesn't say about its benchmark."""

    name: str
    shortest_share: float  # lengths uniform between this share and the stated length; 1: exact
    rounds: int  # requests a client sends, so rounds x concurrency in all
    kv_dtype: str
    budget_per_prompt: int | None  # token budget = prompt + this; None: 8,192
    async_scheduling: bool
    distinct_prompts: int | None = None  # a data set this small repeats, and the rest hits the prefix cache
    node_gpus: int | None = None  # the concurrency is shared by replicas that fill a node of this many GPUs


@dataclass(frozen=True, slots=True)
class Prediction:
    """The simulated run; means over requests."""

    ttft_ms: float
    tpot_ms: float
    preemptions: int


# InferenceMAX, public configuration: RANDOM_RANGE_RATIO 0.8, CONC x 10 prompts, 8,192 batched tokens,
# --no-enable-prefix-caching, --async-scheduling. On H200 the 70B at TP1 holds twice the tokens that a bf16
# cache could: it is FP8 there.
_RANGE_H100 = Reading("random 0.8-1.0", 0.8, 10, "bfloat16", None, True)
_RANGE_H200 = replace(_RANGE_H100, name="random 0.8-1.0, FP8 cache", kv_dtype="fp8")
# TTFT doesn't depend on the output length: exact lengths, clients in lockstep; about one prompt a step.
_EXACT = Reading("exact, one prompt a step", 1.0, 10, "bfloat16", 256, False)
# Throughput above the prefill roofline unless prompts repeat: the client's default set has 100 of them, and
# one warm-up request a client has put the first of them into the cache.
_REPEATED = Reading("exact, 100 prompts repeated", 1.0, 10, "bfloat16", None, True, distinct_prompts=100)
# Decode below the roofline at TP1 and TP2 unless the concurrency is that of the node's replicas together.
_FLEET = Reading("replicas fill 8 GPUs", 0.8, 10, "fp8", None, True, node_gpus=NODE_GPUS)
# Nothing known of the benchmark: lengths vary a little, as real ones do, so that clients are not in lockstep.
_UNKNOWN = Reading("unknown: 0.9-1.0", 0.9, 10, "bfloat16", None, True)


def reading_of(run: PublishedRun) -> Reading:
    """By benchmark family; a row of no known family has lengths near the stated ones and vLLM's defaults."""
    if run.engine.endswith("?") or run.id.startswith("2026_04"):
        return _RANGE_H200 if "h200" in run.system else _RANGE_H100
    if run.engine == "vllm 0.12.0" and "Qwen3" in run.model:
        return _FLEET if run.fp8 else _EXACT
    if run.model.startswith("nvidia/") and run.fp8:
        return _REPEATED
    return _UNKNOWN


def parse_rows(rows: Sequence[dict[str, str]]) -> list[PublishedRun]:
    """CSV rows to runs. ValueError names the row and the column that can't be read."""
    return [_parse(number, row) for number, row in enumerate(rows, start=2)]


def _parse(line: int, row: dict[str, str]) -> PublishedRun:
    def number(column: str, default: float | None = None) -> float:
        text = (row.get(column) or "").strip()
        if not text and default is not None:
            return default
        try:
            value = float(text)
        except ValueError as error:
            raise ValueError(f"line {line}: {column}: {text!r} is not a number") from error
        if not 0 <= value < inf:
            raise ValueError(f"line {line}: {column}: {text!r} is negative or not finite")
        return value

    def count(column: str, default: int | None = None) -> int:
        value = number(column, default)
        if value < 1 or not value.is_integer():
            raise ValueError(f"line {line}: {column}: {row[column]!r} is not a positive integer")
        return int(value)

    return PublishedRun(
        id=row.get("id") or f"line {line}",
        model=row.get("model") or "",
        system=row.get("system") or "",
        fp8="fp8" in (row.get("precision") or "") + (row.get("gemm") or ""),
        engine=row.get("backend") or "",
        tensor_parallel=count("tp"),
        pipeline_parallel=count("pp", 1),
        prompt_tokens=count("isl"),
        output_tokens=count("osl"),
        concurrency=count("concurrency"),
        ttft_ms=number("ttft_ms", 0.0),
        tpot_ms=number("tpot_ms", 0.0),
    )


def read_published(file: Path) -> list[PublishedRun]:
    with file.open(newline="") as handle:
        return parse_rows(list(csv.DictReader(handle)))


def predict(run: PublishedRun, coefficients: Coefficients, rounds: int | None = None) -> Prediction:
    """Simulate the row's benchmark, on as many nodes as its GPUs fill. ValueError when that can't run."""
    reading = reading_of(run)
    plan, model = plan_of(run, reading), find_model(run.model)
    cluster = Cluster(find_gpu(run.system), nodes=-(-plan.gpus // NODE_GPUS))
    if run.concurrency > MOST_CLIENTS:
        raise ValueError(f"concurrency: {run.concurrency}: at most {MOST_CLIENTS} clients are simulated")
    problem = static_problem(model, cluster, plan, run.prompt_tokens + run.output_tokens)
    if problem is not None:
        raise ValueError(problem)
    memory = plan_memory(model, cluster.gpu, plan, graphs_gib=0.0)
    steps = StepModel(model, cluster, plan, coefficients, async_scheduling=reading.async_scheduling)
    simulation = Simulation(steps, memory.kv_tokens, plan.max_batched_tokens, plan.max_running)
    served = simulation.run(workload_of(run, reading, rounds or reading.rounds))
    return Prediction(
        ttft_ms=fmean(request.ttft_s for request in served) * 1e3,
        tpot_ms=fmean(request.tpot_s for request in served) * 1e3,
        preemptions=simulation.preemptions,
    )


def plan_of(run: PublishedRun, reading: Reading) -> ParallelPlan:
    """The engine as the benchmark ran it; 0.9 is vLLM's default utilisation."""
    budget = 8192
    if reading.budget_per_prompt is not None:
        budget = run.prompt_tokens + reading.budget_per_prompt
    return ParallelPlan(
        tensor_parallel=run.tensor_parallel,
        pipeline_parallel=run.pipeline_parallel,
        weight_dtype="fp8" if run.fp8 else "bfloat16",
        kv_dtype=reading.kv_dtype,
        max_batched_tokens=budget,
        max_running=1024,  # vLLM's server default on an H100; the concurrency is what bounds
        memory_utilization=0.9,
    )


def workload_of(run: PublishedRun, reading: Reading, rounds: int) -> Workload:
    """The benchmark client: a closed loop of `concurrency`; of one replica's share when there are several."""
    clients = run.concurrency
    if reading.node_gpus is not None:
        share = run.tensor_parallel * run.pipeline_parallel / reading.node_gpus
        clients = max(1, round(clients * share))
    asks = uniform_asks(
        rounds * clients, run.prompt_tokens, run.output_tokens, shortest_share=reading.shortest_share, seed=1
    )
    if reading.distinct_prompts is not None:
        asks = tuple(
            ask
            if clients <= index < reading.distinct_prompts
            else replace(ask, cached_tokens=ask.prompt_tokens - BLOCK_TOKENS)
            for index, ask in enumerate(asks)
        )
    return Workload(asks, Arrivals(concurrency=clients))
