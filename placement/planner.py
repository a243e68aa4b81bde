"""All plans of a model on a cluster: which are possible, what they deliver, which is best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil

from placement.coefficients import Coefficients
from placement.hardware import Cluster
from placement.memory import MemoryPlan, best_partition, plan_memory
from placement.models import LanguageModel
from placement.plans import ParallelPlan, served_dtypes
from placement.serving import (
    Capacity,
    Latency,
    Slo,
    alone_us,
    broken_promises,
    expected_running,
    simulate,
    steady_capacity,
)
from placement.shapes import shape_of
from placement.step_time import StepModel
from placement.workload import WorkloadSpec

# Token budgets, and what of them is for one prompt: vLLM's small one, its H100 default, and one small enough
# that pipeline stages stay busy.
CHUNKS: tuple[tuple[int, int | None], ...] = ((512, None), (2048, None), (8192, None))
# In a pipeline a chunk is in the way of all batches, stage after stage.
PIPELINE_CHUNKS = (*CHUNKS, (2048, 256))
# A simulated run holds this many times the requests in flight, to be past its start; bounded, so that a plan
# takes a fraction of a second.
TURNOVERS, FEWEST_SIMULATED, MOST_SIMULATED = 4, 120, 800
# Of a closed loop, however many clients it has.
FEWEST_TURNOVERS = 3
# A replica is loaded to this share of its steady capacity: beyond it queues grow without bound.
LOAD_SHARE = 0.9
# Pipelines deeper than this don't pay for a dense model on one network; keeps 1,024 GPUs quick to plan.
MOST_STAGES = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible plan with its figures. Rates are of the whole cluster, `replicas` of them."""

    plan: ParallelPlan
    memory: MemoryPlan
    capacity: Capacity
    cluster_requests_per_s: float
    # Fewest that carry the stated rate within the TPOT promise, by the steady state alone; 0: no rate stated.
    replicas_for_rate: int
    alone_ms: float  # a token of a request that nothing else runs beside
    latency: Latency | None  # at the stated rate, spread over all replicas
    broken: tuple[str, ...]

    @property
    def goodput_per_gpu(self) -> float:
        """Requests a second within the TPOT promise, each GPU."""
        return self.cluster_requests_per_s / self.plan.gpus

    @property
    def keeps_promises(self) -> bool:
        return self.latency is not None and not self.broken


@dataclass(frozen=True, slots=True)
class Reject:
    plan: ParallelPlan
    reason: str


@dataclass(frozen=True, slots=True)
class Planned:
    """The answer: candidates by goodput per GPU (promise keepers first), and every reject with its reason."""

    candidates: tuple[Candidate, ...]
    rejects: tuple[Reject, ...]


def grids(cluster: Cluster) -> Iterator[tuple[int, int]]:
    """(TP, PP) that could be meant: TP a power of two within a node, PP a power of two."""
    tensor = 1
    while tensor <= cluster.gpus_per_node:
        stages = 1
        while tensor * stages <= cluster.gpus and stages <= MOST_STAGES:
            yield tensor, stages
            stages *= 2
        tensor *= 2


def replicas_that_fit(cluster: Cluster, tensor: int, stages: int) -> int:
    """Copies of a grid when no two share a GPU, no TP group leaves a node, and no copy that fits into one."""
    if stages * tensor <= cluster.gpus_per_node:
        return cluster.gpus_per_node // (tensor * stages) * cluster.nodes
    return replicas_that_spread(cluster, tensor, stages)


def replicas_that_spread(cluster: Cluster, tensor: int, stages: int) -> int:
    """Copies of a grid when no two share a GPU and no TP group leaves a node; stages may."""
    return cluster.gpus_per_node // tensor * cluster.nodes // stages


def possible_plans(
    model: LanguageModel, cluster: Cluster, memory_utilization: float
) -> Iterator[ParallelPlan]:
    """Every grid, dtype and chunk; the best layer partition where the even split is not."""
    for tensor, stages in grids(cluster):
        for weights, cache in served_dtypes(model, cluster.gpu):
            for budget, of_a_prompt in CHUNKS if stages == 1 else PIPELINE_CHUNKS:
                plan = ParallelPlan(
                    tensor,
                    stages,
                    max(1, replicas_that_fit(cluster, tensor, stages)),
                    weights,
                    cache,
                    budget,
                    of_a_prompt,
                    memory_utilization=memory_utilization,
                )
                yield _best_split(model, cluster, plan)


def _best_split(model: LanguageModel, cluster: Cluster, plan: ParallelPlan) -> ParallelPlan:
    if not 1 < plan.pipeline_parallel <= model.layers:
        return plan
    partition = best_partition(model, cluster.gpu, plan)
    if partition == plan.layer_counts(model.layers):
        return plan
    return replace(plan, layer_partition=tuple(partition))


def cluster_problem(cluster: Cluster, plan: ParallelPlan) -> str | None:
    """Why the cluster has no room for a plan, whatever the model; None when it has."""
    tensor, stages = plan.tensor_parallel, plan.pipeline_parallel
    if tensor > cluster.gpus_per_node:
        return f"TP={tensor} would leave a node of {cluster.gpus_per_node} GPUs"
    if plan.gpus > cluster.gpus:
        return f"needs {plan.gpus} GPUs, the cluster has {cluster.gpus}"
    if plan.one_node and plan.gpus_per_replica > cluster.gpus_per_node:
        return (
            f"STRICT_PACK: {plan.gpus_per_replica} GPUs on one node, but a node has {cluster.gpus_per_node}: "
            "PACK lets stages spread"
        )
    fit = replicas_that_fit if plan.one_node else replicas_that_spread
    room = fit(cluster, tensor, stages)
    if plan.replicas > room:
        return (
            f"{plan.replicas} replicas of {plan.gpus_per_replica} GPUs, but {cluster.nodes} nodes of "
            f"{cluster.gpus_per_node} hold {room} without splitting a TP group"
        )
    return None


def static_problem(model: LanguageModel, cluster: Cluster, plan: ParallelPlan, tokens: int) -> str | None:
    """Why a plan can't start or can't hold one request of `tokens`; None when it can."""
    return cluster_problem(cluster, plan) or _model_problem(model, cluster, plan, tokens)


def _model_problem(model: LanguageModel, cluster: Cluster, plan: ParallelPlan, tokens: int) -> str | None:
    for problem in plan.topology().model_problems(plan.layer_partition, shape_of(model)):
        return f"{problem.field[-1]} {problem.value}: {problem.reason}"
    if model.context is not None and tokens > model.context:
        return f"a request of {tokens} tokens, but the model's context is {model.context}"
    memory = plan_memory(model, cluster.gpu, plan)
    if memory.kv_tokens < tokens:
        worst = min(memory.stages, key=lambda stage: stage.kv_bytes)
        return (
            f"memory: stage {worst.stage} has {worst.weight_bytes / 1e9:.1f} GB of weights a GPU and "
            f"{worst.kv_bytes / 2**30:.1f} GiB left; the cache holds {memory.kv_tokens} tokens, a request "
            f"needs {tokens}"
        )
    return None


def evaluate(
    model: LanguageModel,
    cluster: Cluster,
    plan: ParallelPlan,
    workload: WorkloadSpec,
    slo: Slo,
    coefficients: Coefficients,
) -> Candidate | Reject:
    """Figures of one plan; a reject when it is impossible or can't keep the TPOT promise at all."""
    problem = static_problem(model, cluster, plan, workload.prompt_tokens + workload.output_tokens)
    if problem is not None:
        return Reject(plan, problem)
    memory = plan_memory(model, cluster.gpu, plan)
    steps = StepModel(model, cluster, plan, coefficients)
    capacity = steady_capacity(steps, memory.kv_tokens, workload, slo)
    if capacity.requests_per_s == 0:
        return Reject(plan, f"{capacity.limit}: one request alone takes {capacity.tpot_ms:.0f} ms a token")
    whole = capacity.requests_per_s * plan.replicas
    rate = workload.requests_per_s
    if rate is not None and rate > LOAD_SHARE * whole:
        return Reject(
            plan,
            f"{capacity.limit}: carries {LOAD_SHARE * whole:.1f} req/s on {plan.gpus} GPUs, not {rate:g}",
        )
    needed = 0 if rate is None else ceil(rate / (LOAD_SHARE * capacity.requests_per_s))
    latency = latency_at(steps, memory, workload, LOAD_SHARE * whole if rate is None else rate)
    broken = tuple(broken_promises(latency, slo))
    alone_ms = alone_us(steps, workload.prompt_tokens, workload.output_tokens) / 1e3
    return Candidate(plan, memory, capacity, whole, needed, alone_ms, latency, broken)


def latency_at(
    steps: StepModel,
    memory: MemoryPlan,
    workload: WorkloadSpec,
    requests_per_s: float,
    fewest: int = FEWEST_SIMULATED,
) -> Latency:
    """Of one replica's share of so many requests a second, or of the workload's clients, over `fewest`
    requests or more."""
    replicas = steps.plan.replicas
    if workload.concurrency is not None:
        clients = max(1, -(-workload.concurrency // replicas))
        share = replace(workload, concurrency=clients)
        # They begin one after the other: the third that does not count must be past that.
        requests = max(_run_length(clients, fewest), FEWEST_TURNOVERS * clients)
        return simulate(steps, memory.kv_tokens, share, 0.0, requests=requests, seed=1)
    each = requests_per_s / replicas
    running = expected_running(steps, workload, each, steps.plan.most_at_once)
    return simulate(steps, memory.kv_tokens, workload, each, requests=_run_length(running, fewest), seed=1)


def _run_length(running: int, fewest: int) -> int:
    return min(MOST_SIMULATED, max(fewest, TURNOVERS * running))


def plan_cluster(
    model: LanguageModel,
    cluster: Cluster,
    workload: WorkloadSpec,
    slo: Slo,
    coefficients: Coefficients,
    memory_utilization: float = 0.85,
) -> Planned:
    """Every plan, ranked: those that keep all promises first, then by goodput per GPU."""
    candidates: list[Candidate] = []
    rejects: list[Reject] = []
    for plan in possible_plans(model, cluster, memory_utilization):
        result = evaluate(model, cluster, plan, workload, slo, coefficients)
        if isinstance(result, Reject):
            rejects.append(result)
        else:
            candidates.append(result)
    candidates.sort(key=lambda c: (not c.keeps_promises, -c.goodput_per_gpu))
    return Planned(tuple(candidates), tuple(rejects))


def pareto_front(candidates: tuple[Candidate, ...]) -> list[Candidate]:
    """Candidates that no other beats in both goodput per GPU and TPOT P50, by rising TPOT."""
    front: list[Candidate] = []
    ordered = sorted(
        (c for c in candidates if c.latency is not None),
        key=lambda c: (c.latency.tpot_p50_ms if c.latency else 0.0, -c.goodput_per_gpu),
    )
    for candidate in ordered:
        if not front or candidate.goodput_per_gpu > front[-1].goodput_per_gpu:
            front.append(candidate)
    return front
