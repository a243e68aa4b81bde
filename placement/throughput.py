"""Tokens per second with the engine full, and the published full-load rows of other engines.

TensorRT-LLM and MLPerf run another engine than the one the step model was fitted to: these rows say whether
the physics carries over, and none was used in a fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from placement.coefficients import Coefficients, StepResidual
from placement.hardware import Cluster, find_gpu
from placement.memory import NON_TORCH_GIB, plan_memory
from placement.models import find_model
from placement.plans import ParallelPlan
from placement.step_time import Batch, StepModel


@dataclass(frozen=True, slots=True)
class ThroughputRow:
    """Output tokens a second, all replicas together, FP8 weights and cache on H100."""

    source: str
    model: str
    tensor_parallel: int
    replicas: int
    prompt_tokens: int
    output_tokens: int
    tokens_per_s: float


_TRT = "TensorRT-LLM v0.17, published performance overview"
_TRT_LENGTHS = ((128, 128), (128, 2048), (1000, 1000), (2048, 128), (2048, 2048), (5000, 500))
_TRT_TOKENS_PER_S = {
    1: (3378, 912, 840, 343, None, 245),
    2: (6645, 6170, 4391, 773, 2898, 920),
    8: (14731, 17062, 11451, 1923, 8802, 2457),
}
_MLPERF = "MLPerf Inference v4.1, Llama-2-70B, 8xH100"


def published_throughput() -> list[ThroughputRow]:
    """TRT-LLM by TP and lengths; MLPerf's offline row (OpenOrca: about 294 prompt, 291 output tokens)."""
    rows = [
        ThroughputRow(_TRT, "meta-llama/Llama-3.1-70B-Instruct", tp, 1, prompt, output, float(tokens))
        for tp, column in _TRT_TOKENS_PER_S.items()
        for (prompt, output), tokens in zip(_TRT_LENGTHS, column, strict=True)
        if tokens is not None
    ]
    rows.append(ThroughputRow(_MLPERF, "meta-llama/Llama-2-70b-chat-hf", 2, 4, 294, 291, 24525.0))
    return rows


# TensorRT-LLM gives 90 % of what is free after loading to the cache: of a card full of weights close to 97 %
# of all, of an empty one 90 %. The engine states its activations at build time: 8,192 tokens of a 70B.
_TRT_MEMORY_SHARE = 0.95
_TRT_ACTIVATION_GIB = 1.0


def compiled_engine(residual: StepResidual) -> StepResidual:
    """The residual of an ahead-of-time engine (TensorRT-LLM). Assumed, fitted to nothing.

    Its C++ host loop hides behind the GPU, every step runs from a graph, element-wise kernels are fused, and
    kernels are as fast as alone in the table.
    """
    return replace(
        residual,
        step_fixed_us=0.0,
        step_per_sequence_us=0.0,
        layer_eager_us=0.0,
        layer_fixed_us=residual.layer_fixed_us / 2,
        elementwise_traffic=1.0,
        gemm_fp8_in_situ=min(1.0, residual.gemm_fp8_in_situ),
        gemm_fp8_compute_in_situ=1.0,
        attention_fp8_in_situ=1.0,
        peer_wait_us=0.0,
    )


def offline_tokens_per_s(row: ThroughputRow, coefficients: Coefficients) -> float:
    """Steady state with as many requests as the cache holds.

    Each step decodes them all and prefills the share of a prompt that keeps their number constant.
    """
    plan = ParallelPlan(
        row.tensor_parallel,
        replicas=row.replicas,
        weight_dtype="fp8",
        kv_dtype="fp8",
        max_batched_tokens=8192,
        max_running=2048,
        memory_utilization=_TRT_MEMORY_SHARE,
    )
    cluster = Cluster(find_gpu("h100"), nodes=1)
    model = find_model(row.model)
    tuned = replace(coefficients, residual=compiled_engine(coefficients.residual))
    steps = StepModel(model, cluster, plan, tuned)
    memory = plan_memory(
        model,
        cluster.gpu,
        plan,
        activation_gib=_TRT_ACTIVATION_GIB,
        non_torch_gib=NON_TORCH_GIB,
        graphs_gib=0.0,
    )
    best, running = 0.0, min(plan.max_running, _resident(row, memory.kv_tokens))
    for batch in {max(1, running >> shift) for shift in range(6)}:
        seconds = steady_step_us(steps, batch, row.prompt_tokens, row.output_tokens) / 1e6
        best = max(best, batch / seconds)
    return best * row.replicas


def _resident(row: ThroughputRow, kv_tokens: int) -> int:
    """Requests that fit at once: each holds its prompt and, on average, half of its output."""
    return max(1, int(kv_tokens / (row.prompt_tokens + row.output_tokens / 2)))


def steady_step_us(steps: StepModel, running: int, prompt_tokens: float, output_tokens: float) -> float:
    """One step of a full engine: `running` tokens out, and running / output prompts in."""
    return steps.step_us(steady_batch(running, prompt_tokens, output_tokens))


def steady_batch(running: float, prompt_tokens: float, output_tokens: float) -> Batch:
    """The average step when requests leave as fast as they come; below one `running`, while one runs."""
    prompts, sequences = running / output_tokens, ceil(running)
    tokens = round(prompts * prompt_tokens)
    return Batch(
        prefill_tokens=tokens,
        prefill_sequences=round(prompts) or int(tokens > 0),
        prefill_pairs=prompts * prompt_tokens * (prompt_tokens + 1) / 2,
        prefill_context_tokens=tokens,
        decode_sequences=sequences,
        decode_context_tokens=sequences * (prompt_tokens + output_tokens / 2),
        sampled=sequences + round(prompts),
    )
