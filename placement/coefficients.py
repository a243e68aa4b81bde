"""Fitted coefficients: their types, and how they are read from the file that `placement fit` writes.

Kernel times are sums of terms with a physical reading: a fixed latency, a share of the roofline, a cost for
each unit of work that the roofline does not see. Microseconds; every term is non-negative.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from pathlib import Path

DEFAULT_FILE = Path(__file__).parent / "data" / "h100_vllm.json"


@dataclass(frozen=True, slots=True)
class GemmCurve:
    """y[m,n] = x[m,k] w[k,n] of one dtype: fixed + a nk/1e6 + b n/1e3 + c k/1e3, us, at each knot of m."""

    rows: tuple[float, ...]
    fixed_us: tuple[float, ...]
    per_mega_weight_us: tuple[float, ...]
    per_kilo_output_us: tuple[float, ...]
    per_kilo_input_us: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AttentionCurve:
    """One layer of one KV dtype. `per_byte` and `per_flop` are multiples of the roofline's time."""

    fixed_us: float
    per_byte: float
    per_flop: float
    per_query_head_us: float  # each (sequence, query head) pair
    per_kv_head_us: float  # each (sequence, KV head) pair


@dataclass(frozen=True, slots=True)
class CollectiveCurve:
    """Time by message size over the NVLink of one node; interpolated in the logarithm of both."""

    message_bytes: tuple[float, ...]
    time_us: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StepResidual:
    """What no kernel table holds, fitted to whole runs of vLLM: CPU work, small kernels, launches.

    The `_in_situ` factors are the kernel's time inside the model over its time alone in the table (other
    caches, other clocks, quantisation fused into the kernel before).
    """

    step_fixed_us: float  # CPU work that the GPU waits for, with asynchronous scheduling
    step_per_sequence_us: float
    sync_step_fixed_us: float  # what comes on top without it (vLLM before 0.14, or --no-async-scheduling)
    sync_step_per_sequence_us: float
    layer_fixed_us: float  # norms, rotary embedding, cache write, activation: kernels in a CUDA graph
    layer_eager_us: float  # floor of a layer launched from Python (more tokens than a graph was captured for)
    elementwise_traffic: float  # multiple of the bytes that the element-wise kernels must move
    gemm_bfloat16_in_situ: float  # few rows: the memory's speed decides
    gemm_fp8_in_situ: float
    gemm_bfloat16_compute_in_situ: float  # many rows: the tensor cores' clock under load decides
    gemm_fp8_compute_in_situ: float
    attention_fp8_in_situ: float  # decoding from an FP8 cache
    peer_wait_us: float  # each all-reduce: ranks wait for the slowest, times log2(TP)
    request_fixed_ms: float  # HTTP, tokeniser start, first-token output
    request_per_token_us: float  # tokeniser and request transport, each prompt token

    def gemm_in_situ(self, dtype: str, rows: float) -> float:
        """Between the two factors by the logarithm of the rows, from 128 (memory) to 512 (compute)."""
        few, many = self.gemm_bfloat16_in_situ, self.gemm_bfloat16_compute_in_situ
        if dtype == "fp8":
            few, many = self.gemm_fp8_in_situ, self.gemm_fp8_compute_in_situ
        share = min(1.0, max(0.0, log(max(1.0, rows) / 128) / log(4)))
        return few + share * (many - few)


@dataclass(frozen=True, slots=True)
class Coefficients:
    """All of them, with where they come from and how well they fit."""

    source: str
    gemm: Mapping[str, GemmCurve]
    decode_attention: Mapping[str, AttentionCurve]
    prefill_attention: Mapping[str, AttentionCurve]
    collectives: Mapping[str, Mapping[int, CollectiveCurve]]
    residual: StepResidual
    # Mean absolute percentage error of each fit, by table; and of whole requests, by axis.
    fit_error_percent: Mapping[str, float]
    # Fingerprints of the published runs that the residual was fitted to.
    fitted_runs: tuple[str, ...] = ()


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def parse_coefficients(text: str) -> Coefficients:
    """The inverse of the file that `placement fit` writes. KeyError or TypeError when it is another file."""
    data = json.loads(text)
    return Coefficients(
        source=data["source"],
        gemm={
            dtype: GemmCurve(**{name: _floats(values) for name, values in curve.items()})
            for dtype, curve in data["gemm"].items()
        },
        decode_attention={d: AttentionCurve(**c) for d, c in data["decode_attention"].items()},
        prefill_attention={d: AttentionCurve(**c) for d, c in data["prefill_attention"].items()},
        collectives={
            name: {
                int(ranks): CollectiveCurve(_floats(c["message_bytes"]), _floats(c["time_us"]))
                for ranks, c in by_ranks.items()
            }
            for name, by_ranks in data["collectives"].items()
        },
        residual=StepResidual(**data["residual"]),
        fit_error_percent=data["fit_error_percent"],
        fitted_runs=tuple(data["fitted_runs"]),
    )


@cache
def default_coefficients() -> Coefficients:
    """The file that ships with the package."""
    return parse_coefficients(DEFAULT_FILE.read_text())
