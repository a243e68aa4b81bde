"""The verdict on one configured plan, before anything starts: memory, imbalance, what it delivers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from placement.coefficients import Coefficients
from placement.hardware import Cluster
from placement.memory import MemoryPlan, best_partition, plan_memory
from placement.models import SIZES, LanguageModel
from placement.planner import LOAD_SHARE, cluster_problem, latency_at, static_problem
from placement.plans import ParallelPlan
from placement.serving import Latency, Slo, broken_promises, steady_capacity
from placement.step_time import StepModel
from placement.workload import WorkloadSpec

# Of one plan there is time for more: a P99 that rests on more than one request.
FEWEST_CHECKED = 600


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a plan delivers at most, and the latency at the rate that was simulated (None: with clients)."""

    requests_per_s: float
    simulated_requests_per_s: float | None
    latency: Latency


@dataclass(frozen=True, slots=True)
class MemoryPromises:
    """What `app validate` holds the memory of a running application to."""

    kv_tokens: int  # that the cache of an engine holds, at least
    share: float  # of a GPU's memory, at most
    imbalance: float  # of what the GPUs hold, (largest - smallest) / mean, at most


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refusals` make the plan impossible; `warnings` don't. What is not known is absent."""

    refusals: tuple[str, ...]
    warnings: tuple[str, ...]
    memory: MemoryPlan | None
    delivery: Delivery | None
    unmeasured: tuple[str, ...]


def refusal(
    model: LanguageModel | None, cluster: Cluster, plan: ParallelPlan, longest_request_tokens: int
) -> str | None:
    """Why the plan can't start: cheap enough for every build of the application. Of a model that is not
    known, or of weights in a format without a size, it says whether the cluster has the room."""
    if model is None or plan.weight_dtype not in SIZES:
        return cluster_problem(cluster, plan)
    return static_problem(model, cluster, plan, longest_request_tokens)


def check_plan(
    model: LanguageModel | None,
    cluster: Cluster,
    plan: ParallelPlan,
    longest_request_tokens: int,
    workload: WorkloadSpec,
    slo: Slo,
    promises: MemoryPromises,
    coefficients: Coefficients,
) -> Verdict:
    """Refusals, warnings and figures of one plan."""
    refused = refusal(model, cluster, plan, longest_request_tokens)
    if refused is not None:
        return Verdict((refused,), (), None, None, plan.unmeasured)
    if model is None:
        return _unknown("the model is not catalogued: nothing is predicted", plan)
    if plan.weight_dtype not in SIZES:
        return _unknown(f"weights as {plan.weight_dtype}: nothing is predicted", plan)
    memory = plan_memory(model, cluster.gpu, plan)
    warnings = [
        *_memory_warnings(plan, memory, promises),
        *_imbalance_warning(model, cluster, plan, memory, promises.imbalance),
    ]
    if workload.prompt_tokens + workload.output_tokens > longest_request_tokens:
        warnings.append(
            f"the workload's requests have {workload.prompt_tokens} + {workload.output_tokens} tokens, the "
            f"longest that is served {longest_request_tokens}: no figures"
        )
        return Verdict((), tuple(warnings), memory, None, plan.unmeasured)
    if plan.weight_dtype not in coefficients.gemm:
        warnings.append(f"{plan.weight_dtype} weights: no kernel table, so no speed")
        return Verdict((), tuple(warnings), memory, None, plan.unmeasured)
    delivery = _delivery(StepModel(model, cluster, plan, coefficients), memory, workload, slo, warnings)
    return Verdict((), tuple(warnings), memory, delivery, plan.unmeasured)


def _unknown(why: str, plan: ParallelPlan) -> Verdict:
    return Verdict((), (why,), None, None, plan.unmeasured)


def _delivery(
    steps: StepModel, memory: MemoryPlan, workload: WorkloadSpec, slo: Slo, warnings: list[str]
) -> Delivery | None:
    """None where not one request is within the promise. Adds to the warnings."""
    capacity = steady_capacity(steps, memory.kv_tokens, workload, slo)
    most = capacity.requests_per_s * steps.plan.replicas
    carried, asked = LOAD_SHARE * most, workload.requests_per_s
    if most == 0 or (asked is not None and asked > carried):
        rate = "" if asked is None else f", {asked:g} asked"
        alone = "" if most else f": one request alone takes {capacity.tpot_ms:.0f} ms a token"
        warnings.append(f"carries {carried:.1f} requests/s ({capacity.limit}{alone}){rate}")
    if most == 0:
        return None
    simulated = carried if asked is None else min(asked, carried)
    latency = latency_at(steps, memory, workload, simulated, FEWEST_CHECKED)
    warnings += broken_promises(latency, slo)
    return Delivery(most, None if workload.concurrency else simulated, latency)


def _memory_warnings(plan: ParallelPlan, memory: MemoryPlan, promises: MemoryPromises) -> Iterator[str]:
    if memory.kv_tokens < promises.kv_tokens:
        yield f"KV cache of {memory.kv_tokens:,} tokens a replica, {promises.kv_tokens:,} promised"
    if plan.memory_utilization > promises.share:
        yield (
            f"the engine takes {100 * plan.memory_utilization:g} % of a GPU's memory, "
            f"{100 * promises.share:g} % promised"
        )


def _imbalance_warning(
    model: LanguageModel, cluster: Cluster, plan: ParallelPlan, memory: MemoryPlan, promised: float
) -> list[str]:
    if memory.imbalance <= promised:
        return []
    best = best_partition(model, cluster.gpu, plan)
    better = plan_memory(model, cluster.gpu, replace(plan, layer_partition=tuple(best)))
    advice = (
        f"; with parallel.layer_partition: {best} by {100 * better.imbalance:.1f} %, and the cache holds "
        f"{better.kv_tokens:,} tokens instead of {memory.kv_tokens:,}"
    )
    differ = f"memory in use differs by {100 * memory.imbalance:.1f} % between stages"
    differ += f", {100 * promised:g} % promised"
    return [differ + (advice if better.kv_tokens > memory.kv_tokens else "")]
