"""The verdict on one configured plan, before anything starts: memory, imbalance, what it delivers."""

from __future__ import annotations

from dataclasses import dataclass

from placement.coefficients import Coefficients
from placement.hardware import Cluster
from placement.memory import balanced_partition, plan_memory
from placement.models import LanguageModel
from placement.planner import replicas_that_fit, static_problem
from placement.plans import ParallelPlan
from placement.serving import Latency, Slo, broken_promises, simulate, steady_capacity
from placement.step_time import StepModel
from placement.workload import WorkloadSpec

IMBALANCE_LIMIT = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refusals` make the plan impossible; `warnings` don't. Figures are absent when it is refused."""

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    weight_gb_by_stage: tuple[float, ...]
    kv_tokens: int
    weight_imbalance: float
    requests_per_s: float | None
    latency: Latency | None
    unmeasured: tuple[str, ...]


def refusals(
    model: LanguageModel, cluster: Cluster, plan: ParallelPlan, longest_request_tokens: int
) -> tuple[str, ...]:
    """Why the plan can't start: cheap enough for every build of the application."""
    found = []
    problem = static_problem(model, cluster, plan, longest_request_tokens)
    if problem is not None:
        found.append(problem)
    room = replicas_that_fit(cluster, plan.tensor_parallel, plan.pipeline_parallel)
    if problem is None and plan.replicas > room:
        found.append(
            f"{plan.replicas} replicas of {plan.gpus_per_replica} GPUs, but {cluster.nodes} nodes of "
            f"{cluster.gpus_per_node} hold {room} without splitting a TP group"
        )
    return tuple(found)


def check_plan(
    model: LanguageModel,
    cluster: Cluster,
    plan: ParallelPlan,
    longest_request_tokens: int,
    workload: WorkloadSpec,
    slo: Slo,
    coefficients: Coefficients,
) -> Verdict:
    """Refusals, warnings and figures of one plan."""
    memory = plan_memory(model, cluster.gpu, plan)
    refused = refusals(model, cluster, plan, longest_request_tokens)
    warnings = list(_imbalance_warning(model, plan, memory.weight_imbalance))
    rate, latency = None, None
    if not refused:
        steps = StepModel(model, cluster, plan, coefficients)
        capacity = steady_capacity(steps, memory.kv_tokens, workload, slo)
        rate = capacity.requests_per_s * plan.replicas
        asked = workload.requests_per_s or rate
        if rate == 0 or asked > rate:
            warnings.append(f"carries {rate:.1f} requests/s ({capacity.limit}), {asked:g} asked")
        if rate > 0:
            each = min(asked, 0.9 * rate) / plan.replicas
            latency = simulate(steps, memory.kv_tokens, workload, each, requests=600, seed=1)
            warnings += broken_promises(latency, slo)
    return Verdict(
        refused,
        tuple(warnings),
        tuple(stage.weight_bytes / 1e9 for stage in memory.stages),
        memory.kv_tokens,
        memory.weight_imbalance,
        rate,
        latency,
        plan.unmeasured,
    )


def _imbalance_warning(model: LanguageModel, plan: ParallelPlan, imbalance: float) -> list[str]:
    if imbalance <= IMBALANCE_LIMIT:
        return []
    better = balanced_partition(model, plan)
    advice = f"; parallel.layer_partition: {better} brings it under 5 %" if better else ""
    return [f"weights differ by {100 * imbalance:.1f} % between stages{advice}"]
