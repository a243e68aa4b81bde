"""The starting plan's claims for Llama-3-70B on 8xH100 (PP=4 x TP=2, bf16), each with its arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from placement.coefficients import Coefficients
from placement.hardware import Cluster, find_gpu
from placement.kernels import collective_us
from placement.memory import plan_memory, spread
from placement.models import find_model
from placement.plans import ParallelPlan
from placement.serving import Slo, simulate, steady_capacity
from placement.step_time import StepModel, decode, prefill
from placement.workload import WorkloadSpec

UNMEASURED = "(prediction; PP>1 has no published H100 measurement)"


@dataclass(frozen=True, slots=True)
class Claim:
    """`verdict` is "holds", "holds within limits", "refuted" or "not known"."""

    claim: str
    arithmetic: str
    verdict: str
    correction: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What the claims are about, priced."""

    steps: StepModel
    kv_tokens: int
    coefficients: Coefficients

    @property
    def plan(self) -> ParallelPlan:
        return self.steps.plan


_MODEL = find_model("llama70b")
_CLUSTER = Cluster(find_gpu("h100"), nodes=1)
_PLAN = ParallelPlan(2, 4, max_batched_tokens=2048)
_LENGTHS = ((512, 128), (1024, 256), (2048, 256))
# An all-reduce of 2,048 tokens over two H100, rows of the tables that the curves come from. Priced is vLLM's
# own from a CUDA graph, but it ends at 8 MiB, and a step of so many tokens is eager.
_OTHER_ALL_REDUCES_US = {"NCCL's": 142.3, "vLLM's, eager": 186.5}
# The same with other chunks.
_CHUNKED = {
    "chunks of 512": replace(_PLAN, max_batched_tokens=512),
    "chunks of 2048": _PLAN,
    "steps of 2048 with chunks of 256": replace(_PLAN, prompt_step_tokens=256),
}


def check_claims(coefficients: Coefficients) -> list[Claim]:
    """All claims, in the order of the plan that made them."""
    subject = Subject(
        StepModel(_MODEL, _CLUSTER, _PLAN, coefficients),
        plan_memory(_MODEL, _CLUSTER.gpu, _PLAN).kv_tokens,
        coefficients,
    )
    checks: tuple[Callable[[Subject], Claim], ...] = (
        _weights,
        _data_parallel,
        _nvlink,
        _ttft,
        _tpot,
        _rate,
        _memory,
        _imbalance,
        _communication,
        _sequence_parallel,
        _kv_compression,
        _batch,
        _optimal,
    )
    return [check(subject) for check in checks]


def _weights(subject: Subject) -> Claim:
    stages = plan_memory(_MODEL, _CLUSTER.gpu, subject.plan).stages
    by_stage = "/".join(f"{stage.weight_bytes / 1e9:.2f}" for stage in stages)
    return Claim(
        "26.25 GB of weights a GPU (17.5 for PP plus 8.75 for TP)",
        f"{_MODEL.parameters:,} parameters x 2 B / 8 GPUs = {_MODEL.parameters / 4e9:.2f} GB; "
        f"by stage {by_stage} GB",
        "refuted",
        "PP and TP cut the same weights: dividing by one and adding the other counts them twice.",
    )


def _data_parallel(subject: Subject) -> Claim:
    plan = subject.plan
    return Claim(
        "DP = 8 / TP 2 = 4 replicas beside PP 4",
        f"8 GPUs / (TP {plan.tensor_parallel} x PP {plan.pipeline_parallel}) = {8 // plan.gpus_per_replica}",
        "refuted",
        "One replica fills the node; concurrency comes from continuous batching and 4 microbatches.",
    )


def _nvlink(subject: Subject) -> Claim:
    gpu = _CLUSTER.gpu
    return Claim(
        "NVLink of 900 Gbps",
        f"{gpu.nvlink_gb_per_s:g} GB/s each way, {2 * gpu.nvlink_gb_per_s:g} GB/s together = "
        f"{16 * gpu.nvlink_gb_per_s:,.0f} Gb/s",
        "refuted",
        "900 is gigabytes a second, both directions together; one message sees at most 450 GB/s.",
    )


def _ttft(subject: Subject) -> Claim:
    alone = {tokens: _first_token_ms(subject, tokens) for tokens in (1024, 2048, 4096, 8192)}
    loaded = simulate(
        subject.steps, subject.kv_tokens, WorkloadSpec(1024, 256, 8, None), 8, requests=600, seed=1
    )
    figures = ", ".join(f"{tokens}: {ms:.0f} ms" for tokens, ms in alone.items())
    kept = loaded.ttft_p50_ms <= 500 and loaded.ttft_p99_ms <= 1000
    return Claim(
        "TTFT P50 <= 500 ms, P99 <= 1000 ms",
        f"unloaded, chunks of 2048 - {figures}; at 8 requests/s of 1024/256: P50 {loaded.ttft_p50_ms:.0f}, "
        f"P99 {loaded.ttft_p99_ms:.0f} ms {UNMEASURED}",
        "holds within limits" if kept else "refuted",
        f"{'Holds' if kept else 'Broken'} at 1024/256 and 8 requests/s; a lone prompt stays under 500 ms "
        f"up to about {_longest_prompt(subject, 500):,} tokens, longer ones need their own promise.",
    )


def _first_token_ms(subject: Subject, tokens: int) -> float:
    spec = WorkloadSpec(tokens, 2, None, 1)
    return simulate(subject.steps, subject.kv_tokens, spec, 0.0, requests=5, seed=1).ttft_p50_ms


def _longest_prompt(subject: Subject, limit_ms: float) -> int:
    lengths = [tokens for tokens in range(1024, 32769, 1024) if _first_token_ms(subject, tokens) <= limit_ms]
    return max(lengths, default=0)


def _tpot(subject: Subject) -> Claim:
    text, late = [], []
    for name, plan in _CHUNKED.items():
        steps = StepModel(_MODEL, _CLUSTER, plan, subject.coefficients)
        for prompt, output in _LENGTHS:
            spec = WorkloadSpec(prompt, output, 8, None)
            token_ms = simulate(steps, subject.kv_tokens, spec, 8, requests=600, seed=1).tpot_p50_ms
            text.append(f"{prompt}/{output} in {name}: {token_ms:.0f} ms")
            late += [f"{prompt}/{output} in {name}"] if token_ms > 50 else []
    return Claim(
        "decode P50 <= 50 ms a token",
        f"TPOT P50 at 8 requests/s - {', '.join(text)} {UNMEASURED}",
        "holds within limits" if late else "holds",
        f"Not at {', '.join(late)}. A chunk holds up every microbatch in stage after stage: with PP they "
        "must be small."
        if late
        else "Holds at all lengths.",
    )


def _rate(subject: Subject) -> Claim:
    text = []
    for name, plan in _CHUNKED.items():
        steps = StepModel(_MODEL, _CLUSTER, plan, subject.coefficients)
        for prompt, output in _LENGTHS:
            spec, slo = WorkloadSpec(prompt, output, None, None), Slo(tpot_p50_ms=50)
            rate = steady_capacity(steps, subject.kv_tokens, spec, slo).requests_per_s
            text.append(f"{prompt}/{output} in {name}: {rate:.1f}/s")
    return Claim(
        "8 requests/s",
        f"steady state with TPOT 50 ms - {', '.join(text)} {UNMEASURED}",
        "holds within limits",
        "A rate means nothing without lengths: state it as prompt/output@rate.",
    )


def _memory(subject: Subject) -> Claim:
    memory = plan_memory(_MODEL, _CLUSTER.gpu, subject.plan)
    return Claim(
        "memory <= 85 %",
        f"weights {memory.stages[0].weight_bytes / 2**30:.1f} GiB of {_CLUSTER.gpu.memory_gib} GiB; "
        f"at a setting of 0.85 the rest becomes {memory.kv_tokens:,} tokens of KV cache",
        "holds",
        "It is a setting (gpu_memory_utilization), not an outcome: vLLM fills whatever it is given.",
    )


def _imbalance(subject: Subject) -> Claim:
    text = []
    for counts in ((20, 20, 20, 20), (19, 21, 21, 19)):
        plan = replace(subject.plan, layer_partition=counts)
        steps = StepModel(_MODEL, _CLUSTER, plan, subject.coefficients)
        memory = plan_memory(_MODEL, _CLUSTER.gpu, plan)
        spreads = {
            "weights": spread([stage.weight_bytes for stage in memory.stages]),
            "memory in use": memory.imbalance,
            "time of 16 decoding": spread(steps.stage_times_us(decode(16, 1024))),
            "time of a chunk of 2048": spread(steps.stage_times_us(prefill(2048))),
        }
        differ = ", ".join(f"{what} {100 * share:.1f} %" for what, share in spreads.items())
        text.append(f"{'/'.join(map(str, counts))} layers: {differ}, {memory.kv_tokens:,} tokens of cache")
    return Claim(
        "imbalance between stages < 5 %",
        f"(largest - smallest) / mean - {'; '.join(text)} {UNMEASURED}",
        "holds within limits",
        "Holds for memory with the even split, and for work unless all of it is decoding (the LM head). A "
        "partition that evens the weights out makes both worse: every stage gets as many blocks of cache as "
        "the tightest, and layers take time.",
    )


def _communication(subject: Subject) -> Claim:
    row = 2 * _MODEL.hidden
    reduced = 2 * _MODEL.layers * row
    hop = 2 * row
    return Claim(
        "communication volumes",
        f"TP: 2 all-reduces x {_MODEL.layers} layers x {row:,} B = {reduced / 1e6:.2f} MB a token; "
        f"PP: 3 hops x {hop:,} B (hidden state, residual) = {3 * hop / 1e3:.0f} kB a token",
        "holds within limits",
        f"TP moves {reduced / (3 * hop):.0f} times what PP does: TP needs NVLink, PP lives with a network.",
    )


def _sequence_parallel(subject: Subject) -> Claim:
    split = replace(subject.plan, sequence_parallel_min_tokens=1)
    with_split = StepModel(_MODEL, _CLUSTER, split, subject.coefficients)
    text = []
    for tokens in (512, 1024, 2048, 4096):
        before = subject.steps.layer_us(prefill(tokens))
        text.append(f"{tokens}: {100 * (1 - with_split.layer_us(prefill(tokens)) / before):+.1f} %")
    curves = dict(subject.coefficients.collectives["all_reduce"])
    priced_us = collective_us(_CLUSTER.gpu, curves, 2, 2048 * 2 * _MODEL.hidden)
    layer_us, split_us = (steps.layer_us(prefill(2048)) for steps in (subject.steps, with_split))
    gains = {
        kernel: 1 - split_us / (layer_us + 2 * (reduce_us - priced_us))
        for kernel, reduce_us in _OTHER_ALL_REDUCES_US.items()
    }
    by_kernel = ", ".join(f"{kernel} {100 * gain:+.1f} %" for kernel, gain in gains.items())
    saved = [split_us < layer_us, *(gain > 0 for gain in gains.values())]
    return Claim(
        "sequence parallelism above 2,048 tokens, off below 1,024",
        f"layer time saved without overlap, TP2 - {', '.join(text)}; at 2048 where it "
        f"replaces another all-reduce than the priced one: {by_kernel}; no published H100 measurement",
        "holds within limits" if all(saved) else "not known" if any(saved) else "refuted",
        "Off below 1,024 is right. At 2,048 the sign hangs on which kernel reduces so large a message. "
        "Reduce-scatter plus all-gather moves what the all-reduce moved: it pays only by split norms and by "
        "overlap with the products, so measure before enabling it.",
    )


def _kv_compression(subject: Subject) -> Claim:
    fp8 = plan_memory(_MODEL, _CLUSTER.gpu, replace(subject.plan, kv_dtype="fp8"))
    return Claim(
        "KV cache compression",
        f"bf16 {_MODEL.kv_bytes_per_token('bfloat16'):,} B a token, FP8 "
        f"{_MODEL.kv_bytes_per_token('fp8'):,} B; {subject.kv_tokens:,} against {fp8.kv_tokens:,} tokens",
        "holds",
        "FP8 halves the cache and nothing else: at short contexts weights dominate and TPOT hardly moves. "
        "Accuracy is not predicted here.",
    )


def _batch(subject: Subject) -> Claim:
    context = subject.kv_tokens // 64
    # A quarter of the sequences in each of the four microbatches: a token takes the whole way round.
    step = subject.steps.step_us(decode(16, 1024)) / 1e3
    return Claim(
        "batches of up to 64",
        f"64 sequences: up to {context:,} tokens each; 16 in each of 4 microbatches take {step:.1f} ms a "
        f"token at context 1024 {UNMEASURED}",
        "holds",
        "The cache allows far more than 64; the promise of 50 ms a token is what bounds the batch.",
    )


def _optimal(subject: Subject) -> Claim:
    spec, slo = WorkloadSpec(1024, 256, None, None), Slo(tpot_p50_ms=50)
    text, best, fastest = [], ("", 0.0), ("", inf)
    for tensor, stages, weights in (
        (2, 4, "bfloat16"),
        (8, 1, "bfloat16"),
        (4, 1, "bfloat16"),
        (2, 1, "fp8"),
    ):
        plan = ParallelPlan(tensor, stages, 8 // (tensor * stages), weights, max_batched_tokens=2048)
        steps = StepModel(_MODEL, _CLUSTER, plan, subject.coefficients)
        kv_tokens = plan_memory(_MODEL, _CLUSTER.gpu, plan).kv_tokens
        rate = steady_capacity(steps, kv_tokens, spec, slo).requests_per_s * plan.replicas
        token_ms = steps.step_us(decode(1, 1024)) / 1e3
        name = f"TP{tensor}xPP{stages}x{plan.replicas} {weights}"
        text.append(f"{name}: {token_ms:.1f} ms, {rate:.1f}/s")
        best = max(best, (name, rate), key=lambda pair: pair[1])
        fastest = min(fastest, (name, token_ms), key=lambda pair: pair[1])
    return Claim(
        "PP=4 x TP=2 is optimal",
        f"one user's token, and requests/s at 1024/256 within 50 ms - {'; '.join(text)} (PP: unmeasured)",
        "refuted",
        f"Fastest token: {fastest[0]}. Most requests: {best[0]}. PP4 x TP2 is for slow links or for weights "
        "that fit nowhere else; it is served because it was asked for.",
    )
