"""Time of one engine step: any mix of prefill chunks and decoding sequences, any TP, PP, dtype.

A step is one forward pass of a batch through all stages. Times are microseconds. The sum follows the order
of a layer: QKV, attention, output, all-reduce, gate-up, down, all-reduce; what is between (norms, rotary
embedding, activation, cache write) is `elementwise_us`. Whatever no kernel table holds comes from
`StepResidual`, which is fitted to whole runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import log2

from placement.coefficients import Coefficients
from placement.hardware import Cluster
from placement.kernels import (
    AttentionWork,
    Gemm,
    attention_roofline_us,
    attention_us,
    collective_us,
    gemm_roofline_us,
    gemms_us,
    point_to_point_us,
)
from placement.models import LanguageModel, bytes_per_value
from placement.plans import ParallelPlan

_ACTIVATION_BYTES = 2  # bf16 activations, whatever the weights are


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step computes. `pairs` counts query-key pairs: chunk x (context before + (chunk + 1) / 2)."""

    prefill_tokens: int = 0
    prefill_sequences: int = 0
    prefill_pairs: float = 0.0
    prefill_context_tokens: int = 0  # keys read: context before the chunk plus the chunk
    decode_sequences: int = 0
    decode_context_tokens: float = 0.0  # keys read, all sequences together
    sampled: int = 0  # rows of logits: decoding sequences and prompts that this step completes

    @property
    def tokens(self) -> int:
        return self.prefill_tokens + self.decode_sequences


def prefill(tokens: int, *, before: int = 0, completes: bool = True) -> Batch:
    """A chunk of `tokens` after `before` tokens that the cache already holds."""
    return Batch(
        prefill_tokens=tokens,
        prefill_sequences=1,
        prefill_pairs=tokens * (before + (tokens + 1) / 2),
        prefill_context_tokens=before + tokens,
        sampled=int(completes),
    )


def decode(sequences: int, context: float) -> Batch:
    """One token for each of `sequences`, each with `context` tokens in the cache."""
    return Batch(decode_sequences=sequences, decode_context_tokens=sequences * context, sampled=sequences)


def _side_by_side(gemms: tuple[Gemm, ...], count: int) -> tuple[Gemm, ...]:
    return tuple(Gemm(gemm.outputs * count, gemm.inputs) for gemm in gemms)


class StepModel:
    """Prices batches for one model, GPU and plan; immutable apart from caches by batch size."""

    def __init__(
        self,
        model: LanguageModel,
        cluster: Cluster,
        plan: ParallelPlan,
        coefficients: Coefficients,
        *,
        async_scheduling: bool | None = None,  # None: as the application has it
    ) -> None:
        self.model, self.gpu, self.plan, self.coefficients = model, cluster.gpu, plan, coefficients
        self.layer_counts = plan.layer_counts(model.layers)
        # Above it a step is eager (vLLM's max_cudagraph_capture_size).
        self._graph_tokens = min(self.gpu.graph_tokens, 2 * plan.max_running, plan.max_batched_tokens)
        self._async_scheduling = plan.async_scheduling if async_scheduling is None else async_scheduling
        self._cluster = cluster
        tp = plan.tensor_parallel
        self._query_heads = max(1, model.heads // tp)
        self._kv_heads = max(1, model.kv_heads // tp)
        query, key_value = self._query_heads * model.head_dim, self._kv_heads * model.head_dim
        self._attention_gemms = (Gemm(query + 2 * key_value, model.hidden), Gemm(model.hidden, query))
        ffn = max(1, model.ffn // tp)
        self._ffn_gemms = (Gemm(2 * ffn, model.hidden), Gemm(model.hidden, ffn))
        self._head = (Gemm(max(1, model.vocab // tp), model.hidden),)
        # Two norms with residual (read two, write two), QKV twice (rotary, cache write), activation.
        norms, rotary, activation = 8 * model.hidden, 4 * (query + 2 * key_value), 3 * ffn
        self._elementwise_bytes = _ACTIVATION_BYTES * (norms + rotary + activation * model.experts_per_token)
        self._dense_us, self._between_us = cache(self._dense_layer_us), cache(self._between_layers_us)
        self._head_us = cache(self._logits_us)

    def step_us(self, batch: Batch) -> float:
        """From the start of a step to its tokens: all stages, hops between them, waits of the GPU."""
        return sum(self.stage_times_us(batch)) + self.host_us(batch)

    def stage_times_us(self, batch: Batch) -> list[float]:
        """How long each stage is busy with the batch, hops included in the stage that sends."""
        layer = self.layer_us(batch)
        between = self._between_us(batch.tokens)
        times = [count * layer + other for count, other in zip(self.layer_counts, between, strict=True)]
        times[-1] += self._head_us(batch.sampled)
        return times

    def host_us(self, batch: Batch) -> float:
        """CPU work that the GPU waits for between steps: fitted residual."""
        residual = self.coefficients.residual
        time = residual.step_fixed_us + residual.step_per_sequence_us * batch.sampled
        if not self._async_scheduling:
            time += residual.sync_step_fixed_us + residual.sync_step_per_sequence_us * batch.sampled
        return time

    def layer_us(self, batch: Batch) -> float:
        """One layer on one rank."""
        time = self._dense_us(batch.tokens) + self.attention_us(batch)
        if batch.tokens > self._graph_tokens:
            return max(time, self.coefficients.residual.layer_eager_us)
        return time

    def attention_us(self, batch: Batch) -> float:
        """Prefilling and decoding sequences of one layer on one rank."""
        kind = "fp8" if bytes_per_value(self.plan.kv_dtype) == 1 else "bfloat16"
        prefilling, decoding = self._attention_work(batch)
        time = attention_us(self.gpu, self.coefficients.decode_attention[kind], decoding)
        if kind == "fp8":
            floor = attention_roofline_us(self.gpu, decoding)
            time = max(floor, time * self.coefficients.residual.attention_fp8_in_situ)
        return time + attention_us(self.gpu, self.coefficients.prefill_attention[kind], prefilling)

    def _attention_work(self, batch: Batch) -> tuple[AttentionWork, AttentionWork]:
        heads, kv_heads, dim = self._query_heads, self._kv_heads, self.model.head_dim
        kv_row = 2 * kv_heads * dim * bytes_per_value(self.plan.kv_dtype)
        query_row = 2 * heads * dim * _ACTIVATION_BYTES
        earlier = batch.prefill_context_tokens - batch.prefill_tokens
        fresh_row = 2 * kv_heads * dim * _ACTIVATION_BYTES
        prefilling = AttentionWork(
            batch.prefill_sequences,
            heads,
            kv_heads,
            earlier * kv_row + batch.prefill_tokens * (fresh_row + query_row),
            4 * batch.prefill_pairs * heads * dim,
        )
        decoding = AttentionWork(
            batch.decode_sequences,
            heads,
            kv_heads,
            batch.decode_context_tokens * kv_row + batch.decode_sequences * query_row,
            4 * batch.decode_context_tokens * heads * dim,
        )
        return prefilling, decoding

    def _dense_layer_us(self, tokens: int) -> float:
        return self._gemm_us(tokens) + 2 * self._reduce_us(tokens) + self._elementwise_us(tokens)

    def _gemm_us(self, tokens: int) -> float:
        """All products of a layer; a mixture's touched experts run side by side in one grouped kernel."""
        dtype = self.plan.weight_dtype
        curve, residual = self.coefficients.gemm[dtype], self.coefficients.residual
        rows, experts, ffn = self._expert_rows(tokens)
        time = floor = 0.0
        for count, gemms in ((tokens, self._attention_gemms), (rows, _side_by_side(ffn, experts))):
            alone = gemms_us(self.gpu, dtype, curve, count, gemms)
            time += alone * residual.gemm_in_situ(dtype, count)
            floor += gemm_roofline_us(self.gpu, dtype, count, gemms)
        return max(floor, time)

    def _expert_rows(self, tokens: int) -> tuple[float, int, tuple[Gemm, ...]]:
        """Rows that each touched expert sees, how many are touched (uniform routing), and their products."""
        model = self.model
        if model.experts == 1:
            return tokens, 1, self._ffn_gemms
        share = model.experts_per_token / model.experts
        touched = max(1, round(model.experts * (1 - (1 - share) ** tokens)))
        return tokens * model.experts_per_token / touched, touched, self._ffn_gemms

    def _reduce_us(self, tokens: int) -> float:
        """One all-reduce of the activations, or reduce-scatter and all-gather above the SP threshold."""
        tp = self.plan.tensor_parallel
        if tp == 1:
            return 0.0
        message = tokens * self.model.hidden * _ACTIVATION_BYTES
        curves, wait = self.coefficients.collectives, self.coefficients.residual.peer_wait_us * log2(tp)
        if self._splits_sequence(tokens):
            halves = (curves["reduce_scatter"], curves["all_gather"])
            return wait + sum(collective_us(self.gpu, dict(half), tp, message) for half in halves)
        return wait + collective_us(self.gpu, dict(curves["all_reduce"]), tp, message)

    def _splits_sequence(self, tokens: int) -> bool:
        threshold = self.plan.sequence_parallel_min_tokens
        return threshold is not None and tokens >= threshold

    def _elementwise_us(self, tokens: int) -> float:
        residual = self.coefficients.residual
        moved = float(tokens * self._elementwise_bytes)
        if self._splits_sequence(tokens):  # the norms work on a slice of the tokens
            norms = 8 * self.model.hidden * _ACTIVATION_BYTES * tokens
            moved -= norms * (1 - 1 / self.plan.tensor_parallel)
        bandwidth = self.gpu.memory_tb_per_s * 1e6
        return residual.layer_fixed_us + residual.elementwise_traffic * moved / bandwidth

    def _between_layers_us(self, tokens: int) -> tuple[float, ...]:
        """Each stage's part that is no layer and no logits: the embedding, and the hop to the next stage."""
        last = len(self.layer_counts) - 1
        times = [self._hop_us(tokens, stage) for stage in range(last)] + [0.0]
        times[0] += self._embedding_us(tokens)
        return tuple(times)

    def _embedding_us(self, tokens: int) -> float:
        """Row look-up, and its all-reduce when the table is cut over ranks."""
        moved = 2 * tokens * self.model.hidden * _ACTIVATION_BYTES
        return moved / (self.gpu.memory_tb_per_s * 1e6) + self._reduce_us(tokens)

    def _hop_us(self, tokens: int, stage: int) -> float:
        """Hidden states and residual to the next stage: each rank its slice, gathered at the receiver."""
        tp = self.plan.tensor_parallel
        groups_a_node = max(1, self._cluster.gpus_per_node // tp)
        across = (stage + 1) % groups_a_node == 0
        link = self._cluster.network_gb_per_s if across else self.gpu.peer_gb_per_s
        message = 2 * tokens * self.model.hidden * _ACTIVATION_BYTES / tp
        gather = dict(self.coefficients.collectives["all_gather"])
        time = point_to_point_us(link, message, between_nodes=across)
        return time + collective_us(self.gpu, gather, tp, message * tp)

    def _logits_us(self, sampled: int) -> float:
        """Logits of the sampled rows, bf16 whatever the checkpoint's dtype, gathered over the ranks."""
        if sampled == 0:
            return 0.0
        time = gemms_us(self.gpu, "bfloat16", self.coefficients.gemm["bfloat16"], sampled, self._head)
        gather = dict(self.coefficients.collectives["all_gather"])
        message = sampled * self.model.vocab * _ACTIVATION_BYTES
        return time + collective_us(self.gpu, gather, self.plan.tensor_parallel, message)
