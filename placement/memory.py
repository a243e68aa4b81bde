"""Memory of each rank: weights, what a step needs, what is left for the KV cache.

vLLM's own sum (v1/worker/gpu_worker.py): KV cache = utilisation x total - weights - peak activation -
non-torch - CUDA graphs, whose size it estimates (since 0.21; before, they came on top).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from placement.hardware import GIB, Gpu
from placement.models import LanguageModel, bytes_per_value
from placement.plans import ParallelPlan

# vLLM 0.19, Llama, 2,048 to 8,192 batched tokens: constants of aiconfigurator 0.12.0.
ACTIVATION_FLOOR_GIB = 1.89
# CUDA context, and NCCL and custom all-reduce buffers once there are peers. vLLM 0.19, Llama.
NON_TORCH_GIB, NON_TORCH_PEERS_GIB = 0.55, 2.10
# Captured graphs of a dense 70B at TP2.
CUDA_GRAPHS_GIB = 1.0
# Live copies of a layer's widest tensor at the peak of a compiled step: the gate-up output and its product.
_LIVE_COPIES = 1.5
# Rows of float32 logits that the sampler holds at the peak (logits, sorted copy, probabilities).
_LOGIT_COPIES = 3
BLOCK_TOKENS = 16  # vLLM's default KV block


@dataclass(frozen=True, slots=True)
class StageMemory:
    """One rank of one stage; bytes."""

    stage: int
    layers: int
    weight_bytes: int
    activation_bytes: int
    non_torch_bytes: int
    graph_bytes: int
    kv_bytes: int  # what is left for the cache; negative when the stage doesn't fit
    kv_bytes_per_token: int

    @property
    def kv_tokens(self) -> int:
        return max(0, self.kv_bytes) // max(1, self.kv_bytes_per_token)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """All stages of one replica."""

    stages: tuple[StageMemory, ...]

    @property
    def kv_tokens(self) -> int:
        """Tokens that the replica's cache holds: the tightest stage decides. Whole blocks."""
        tokens = min(stage.kv_tokens for stage in self.stages)
        return tokens // BLOCK_TOKENS * BLOCK_TOKENS

    @property
    def held_bytes(self) -> list[int]:
        """What a GPU of each stage holds: all get as many blocks of cache as the tightest has room for."""
        return [
            stage.weight_bytes
            + stage.activation_bytes
            + stage.non_torch_bytes
            + stage.graph_bytes
            + self.kv_tokens * stage.kv_bytes_per_token
            for stage in self.stages
        ]

    @property
    def imbalance(self) -> float:
        """Of what the GPUs hold, as `app validate` measures it."""
        return spread(self.held_bytes)


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / mean, of values whose mean is not zero."""
    return (max(values) - min(values)) * len(values) / sum(values)


def stage_weight_bytes(model: LanguageModel, plan: ParallelPlan, stage: int) -> int:
    """Weights of one rank of a stage, bytes: its layers, the embedding on the first, the LM head on the last.

    FP8 checkpoints keep the embedding, the LM head, the norms and the router in bf16. KV heads are replicated
    when there are fewer of them than tensor ranks.
    """
    tp, counts = plan.tensor_parallel, plan.layer_counts(model.layers)
    linear, wide = bytes_per_value(plan.weight_dtype), _wide_bytes(plan)
    kv_heads = max(1.0, model.kv_heads / tp) * tp
    attention = model.hidden * model.head_dim * (2 * model.heads + 2 * kv_heads)
    sharded = (attention + model.experts * model.expert_parameters) * linear / tp
    replicated = wide * (model.norm_parameters_per_layer + model.router_parameters_per_layer)
    total = counts[stage] * (sharded + replicated)
    first, last = stage == 0, stage == len(counts) - 1
    tables = int(first) + int(last)
    if model.tied_embeddings and first and last:
        tables = 1
    return round(total + tables * wide * model.embedding_parameters / tp)


def _wide_bytes(plan: ParallelPlan) -> int:
    """Of a value that is not quantised: of tables, norms and activations."""
    return max(2, bytes_per_value(plan.weight_dtype))


def activation_bytes(model: LanguageModel, plan: ParallelPlan) -> int:
    """Peak of one step above the weights, bytes a rank: the widest layer, and the sampler's logits."""
    width = 4 * model.hidden + _LIVE_COPIES * 2 * model.ffn * model.experts_per_token / plan.tensor_parallel
    layer = _wide_bytes(plan) * plan.max_batched_tokens * width
    logits = 4 * _LOGIT_COPIES * min(plan.max_running, plan.max_batched_tokens) * model.vocab
    small = model.parameters < 1e9  # the floor was measured on 8B to 70B; an embedded model needs far less
    return round(max(layer + logits, 0 if small else ACTIVATION_FLOOR_GIB * GIB))


def plan_memory(
    model: LanguageModel,
    gpu: Gpu,
    plan: ParallelPlan,
    *,
    activation_gib: float | None = None,
    non_torch_gib: float | None = None,
    graphs_gib: float = CUDA_GRAPHS_GIB,
) -> MemoryPlan:
    """What each stage's ranks hold. A measured activation or non-torch figure replaces the estimate; without
    graphs it is the sum of a vLLM before 0.21, and of other engines."""
    peers = plan.gpus_per_replica > 1
    activation = round(activation_gib * GIB) if activation_gib is not None else activation_bytes(model, plan)
    default_non_torch = NON_TORCH_PEERS_GIB if peers else NON_TORCH_GIB
    non_torch = round((default_non_torch if non_torch_gib is None else non_torch_gib) * GIB)
    graphs = round(graphs_gib * GIB)
    budget = plan.memory_utilization * gpu.memory_gib * GIB
    kv_share = max(1.0, model.kv_heads / plan.tensor_parallel) / model.kv_heads
    kv_per_layer = model.kv_bytes_per_token(plan.kv_dtype) * kv_share / model.layers
    stages = []
    for stage, layers in enumerate(plan.layer_counts(model.layers)):
        weights = stage_weight_bytes(model, plan, stage)
        left = round(budget - weights - activation - non_torch - graphs)
        per_token = max(1, round(layers * kv_per_layer))
        stages.append(StageMemory(stage, layers, weights, activation, non_torch, graphs, left, per_token))
    return MemoryPlan(tuple(stages))


def best_partition(model: LanguageModel, gpu: Gpu, plan: ParallelPlan) -> list[int]:
    """Layers of each stage with the most KV tokens; the even split where no other has more.

    Each layer goes to the stage that with it has the most, of those alike to the one that decodes fastest. Of
    a model with at least as many layers as stages.
    """

    def memory(counts: list[int]) -> MemoryPlan:
        return plan_memory(model, gpu, replace(plan, layer_partition=tuple(counts)))

    # A decode step reads all of a stage's weights but for the embedding, of which it looks rows up.
    embedding = round(_wide_bytes(plan) * model.embedding_parameters / plan.tensor_parallel)
    counts = [1] * plan.pipeline_parallel
    while sum(counts) < model.layers:
        larger = memory([count + 1 for count in counts]).stages
        best = max(larger, key=lambda one: (one.kv_tokens, embedding * (one.stage == 0) - one.weight_bytes))
        counts[best.stage] += 1
    return max(plan.topology().layer_counts(model.layers), counts, key=lambda split: memory(split).kv_tokens)
