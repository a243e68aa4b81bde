"""A configuration in the planner's terms, and its static check before anything starts."""

from __future__ import annotations

from app.config import ApplicationConfig
from placement.hardware import Cluster
from placement.models import LanguageModel, catalogued, find_model
from placement.plans import ParallelPlan
from placement.verdict import refusals


def model_of(config: ApplicationConfig) -> LanguageModel:
    """The planner's model. ValueError when it is neither catalogued nor a folder with a config.json."""
    return find_model(config.model.source)


def plan_of(config: ApplicationConfig) -> ParallelPlan:
    """The configured plan in the planner's terms."""
    parallel, engine = config.parallel, config.engine
    sequence = parallel.sequence_parallelism
    return ParallelPlan(
        tensor_parallel=parallel.tensor_parallel_size,
        pipeline_parallel=parallel.pipeline_parallel_size,
        replicas=config.replicas.max,
        weight_dtype="fp8" if "fp8" in (engine.quantization or "") else "bfloat16",
        kv_dtype="fp8" if engine.kv_cache_dtype.startswith("fp8") else "bfloat16",
        max_batched_tokens=engine.max_num_batched_tokens,
        max_running=engine.max_num_seqs,
        memory_utilization=engine.gpu_memory_utilization,
        layer_partition=tuple(parallel.layer_partition) if parallel.layer_partition else None,
        sequence_parallel_min_tokens=sequence.min_tokens if sequence.enabled else None,
    )


def refusals_of(config: ApplicationConfig, cluster: Cluster) -> tuple[str, ...]:
    """Why the configuration can't start on this hardware; empty when it can, or when only the engine knows.

    Cheap (no simulation): meant for every build of the application.
    """
    if config.engine.device != "gpu" or catalogued(config.model.source) is None:
        return ()
    return refusals(model_of(config), cluster, plan_of(config), config.engine.max_model_len)
