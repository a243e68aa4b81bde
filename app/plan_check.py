"""A configuration in the planner's terms, and its static check before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from app.config import ApplicationConfig
from placement.hardware import Cluster
from placement.models import LanguageModel, known_model
from placement.plans import ParallelPlan
from placement.room import Room, room
from placement.serving import Slo
from placement.verdict import MemoryPromises, refusal
from placement.workload import WorkloadSpec

# How vLLM calls checkpoints that say themselves what they hold.
_AS_PUBLISHED = frozenset({"modelopt", "compressed-tensors"})


def model_of(config: ApplicationConfig) -> LanguageModel | None:
    """The planner's model; None when it is neither catalogued nor a folder. ValueError for a folder whose
    `config.json` is of another architecture."""
    return known_model(config.model.source)


def plan_of(config: ApplicationConfig) -> ParallelPlan:
    """The configured plan in the planner's terms."""
    parallel, engine = config.parallel, config.engine
    sequence = parallel.sequence_parallelism
    return ParallelPlan(
        tensor_parallel=parallel.tensor_parallel_size,
        pipeline_parallel=parallel.pipeline_parallel_size,
        replicas=config.replicas.max,
        weight_dtype=_weight_dtype(config),
        kv_dtype=_kv_dtype(config),
        max_batched_tokens=engine.max_num_batched_tokens,
        prompt_step_tokens=engine.long_prefill_token_threshold,
        max_running=engine.max_num_seqs,
        admitted=config.requests_per_replica(),
        memory_utilization=engine.gpu_memory_utilization,
        layer_partition=tuple(parallel.layer_partition) if parallel.layer_partition else None,
        one_node=parallel.strategy == "STRICT_PACK",
        sequence_parallel_min_tokens=sequence.min_tokens if sequence.enabled else None,
    )


def _weight_dtype(config: ApplicationConfig) -> str:
    """What the engine holds; the name of the format where its size is not known."""
    model, quantization = model_of(config), config.engine.quantization
    published = "bfloat16" if model is None else model.weight_dtype
    if quantization is not None and quantization not in _AS_PUBLISHED:
        return "fp8" if "fp8" in quantization else quantization
    if published == "bfloat16" and config.engine.dtype == "float32":
        return "float32"
    return published


def _kv_dtype(config: ApplicationConfig) -> str:
    model, asked = model_of(config), config.engine.kv_cache_dtype
    published = "bfloat16" if model is None else model.kv_dtype
    if asked != "auto":
        return "fp8" if asked.startswith("fp8") else asked
    if published == "bfloat16" and config.engine.dtype == "float32":
        return "float32"
    return published


def workload_of(config: ApplicationConfig) -> WorkloadSpec:
    """What the promises are for."""
    promises = config.promises
    return WorkloadSpec(promises.prompt_tokens, promises.output_tokens, promises.requests_per_s)


def slo_of(config: ApplicationConfig) -> Slo:
    """The promises themselves."""
    promises = config.promises
    return Slo(promises.ttft_p50_ms, promises.ttft_p99_ms, promises.tpot_p50_ms, promises.tpot_p99_ms)


def memory_promises_of(config: ApplicationConfig) -> MemoryPromises:
    """Those that `app validate` measures."""
    promises = config.promises
    return MemoryPromises(config.promised_kv_tokens(), promises.memory_share, promises.memory_imbalance)


def refusal_of(config: ApplicationConfig, cluster: Cluster) -> str | None:
    """Why the configuration can't start on this hardware; None when it can, or when only the engine knows.

    Cheap (no simulation): meant for every build of the application. ValueError as `model_of`.
    """
    if config.engine.device != "gpu":
        return None
    return refusal(model_of(config), cluster, plan_of(config), config.engine.max_model_len)


def control_room(config: ApplicationConfig, free: Sequence[Mapping[str, float]]) -> Room:
    """Of gateways and schedulers, on nodes that have this left beside the engines. `missing` says for how
    many of them there is room."""
    processes, asked = config.gateway.replicas + 1 + config.scheduler.spares, config.control_resources
    if not asked:
        return Room(processes, left=tuple(free))
    found = room(free, [asked], "PACK", processes)
    if not found.missing:
        return found
    amounts = ", ".join(f"{amount:g} {name}" for name, amount in asked.items())
    missing = f"gateways and schedulers: {processes} ask for {amounts}, there is room for {found.replicas}"
    return replace(found, missing=missing)
