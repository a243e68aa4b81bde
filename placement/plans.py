"""A parallel plan: how one replica is cut over ranks, what it stores, and the engine's limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

from placement.hardware import Gpu
from placement.models import LanguageModel
from placement.topology import Topology

# What collectives were measured for, and runs published.
MEASURED_TENSOR_PARALLEL = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class ParallelPlan:
    """One replica's grid, dtypes and engine limits, and how many replicas there are."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    replicas: int = 1  # data parallelism: copies that share nothing
    weight_dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"
    max_batched_tokens: int = 8192  # vLLM's server default on an H100
    prompt_step_tokens: int | None = None  # of one prompt in a step (vLLM's long_prefill_token_threshold)
    max_running: int = 256  # vLLM's max_num_seqs, all microbatches together
    # What the scheduler in front of a replica lets into it at a time; None: as many as can run.
    admitted: int | None = None
    memory_utilization: float = 0.85
    layer_partition: tuple[int, ...] | None = None
    # All ranks of a replica on one node (Ray's STRICT_PACK).
    one_node: bool = False
    # Sequence parallelism for batches of at least this many tokens; None: off.
    sequence_parallel_min_tokens: int | None = field(default=None)

    @property
    def gpus_per_replica(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def gpus(self) -> int:
        return self.gpus_per_replica * self.replicas

    @property
    def async_scheduling(self) -> bool:
        """vLLM's default, which the application switches off where it would fill no pipeline."""
        return self.pipeline_parallel == 1 or self.sequence_parallel_min_tokens is None

    @property
    def most_at_once(self) -> int:
        """Most requests that run in a replica."""
        return self.max_running if self.admitted is None else min(self.max_running, self.admitted)

    @property
    def longest_chunk(self) -> int:
        """Most tokens of one prompt in a step."""
        return min(self.max_batched_tokens, self.prompt_step_tokens or self.max_batched_tokens)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """What no published H100 measurement stands behind; shown wherever this plan is."""
        notes = []
        if self.pipeline_parallel > 1:
            notes.append("PP>1: no published H100 measurement")
        if self.tensor_parallel not in MEASURED_TENSOR_PARALLEL:
            notes.append(f"TP={self.tensor_parallel}: no published H100 measurement")
        if self.sequence_parallel_min_tokens is not None:
            notes.append("sequence parallelism: no published H100 measurement")
        return tuple(notes)

    def topology(self) -> Topology:
        return Topology(self.pipeline_parallel, self.tensor_parallel)

    def layer_counts(self, layers: int) -> list[int]:
        return self.topology().layer_counts(layers, self.layer_partition)

    def label(self) -> str:
        """Such as "TP2 x PP4 x DP1 fp8 kv:bf16 chunk 2048"."""
        kv = {"bfloat16": "bf16"}.get(self.kv_dtype, self.kv_dtype)
        weights = {"bfloat16": "bf16"}.get(self.weight_dtype, self.weight_dtype)
        grid = f"TP{self.tensor_parallel} x PP{self.pipeline_parallel} x DP{self.replicas}"
        sequence = " SP" if self.sequence_parallel_min_tokens is not None else ""
        share = "" if self.prompt_step_tokens is None else f" of {self.prompt_step_tokens} a prompt"
        return f"{grid} {weights} kv:{kv} chunk {self.max_batched_tokens}{share}{sequence}"


def served_dtypes(model: LanguageModel, gpu: Gpu) -> list[tuple[str, str]]:
    """Dtypes of weights and cache to choose from: as stored, or FP8 made of wider weights; an FP8 cache where
    the GPU computes in FP8. ValueError for weights in a format without a kernel table."""
    if model.weight_dtype not in ("bfloat16", "fp8"):
        raise ValueError(
            f"model: {model.name}: weights as {model.weight_dtype}: only bfloat16 and fp8 are priced"
        )
    weights = ("fp8",) if model.weight_dtype == "fp8" else ("bfloat16", "fp8")
    return list(product(weights, ("bfloat16",) if gpu.fp8_tflops is None else ("bfloat16", "fp8")))
