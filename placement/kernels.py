"""Time of single kernels on one GPU, microseconds: never below the roofline.

The curves were measured on an H100. On another GPU the fixed latency stays and the rest scales with that
GPU's roofline: the same efficiency is carried over.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from placement.coefficients import AttentionCurve, CollectiveCurve, GemmCurve
from placement.hardware import GPUS, Gpu
from placement.models import bytes_per_value

REFERENCE = GPUS["h100"]


@dataclass(frozen=True, slots=True)
class Gemm:
    """Weights of one matrix product: `inputs` x `outputs`."""

    outputs: int
    inputs: int


def gemm_roofline_us(gpu: Gpu, dtype: str, rows: float, gemms: Sequence[Gemm]) -> float:
    """Sum over the products of the larger of memory time (weights, input, bf16 output) and compute time."""
    size, memory, peak = bytes_per_value(dtype), gpu.memory_tb_per_s * 1e6, gpu.tflops(dtype) * 1e6
    total = 0.0
    for gemm in gemms:
        moved = size * (gemm.outputs + rows) * gemm.inputs + 2 * rows * gemm.outputs
        total += max(moved / memory, 2 * rows * gemm.outputs * gemm.inputs / peak)
    return total


def gemms_us(gpu: Gpu, dtype: str, curve: GemmCurve, rows: float, gemms: Sequence[Gemm]) -> float:
    """Several products with the same number of rows, one after the other."""
    if rows <= 0 or not gemms:
        return 0.0
    weights = sum(gemm.outputs * gemm.inputs for gemm in gemms) / 1e6
    outputs = sum(gemm.outputs for gemm in gemms) / 1e3
    inputs = sum(gemm.inputs for gemm in gemms) / 1e3
    low, high, share = _bracket(curve.rows, rows)

    def at(values: Sequence[float]) -> float:
        return values[low] + share * (values[high] - values[low])

    body = (
        at(curve.per_mega_weight_us) * weights
        + at(curve.per_kilo_output_us) * outputs
        + at(curve.per_kilo_input_us) * inputs
    )
    fixed = max(0.0, at(curve.fixed_us)) * len(gemms)
    roofline = gemm_roofline_us(gpu, dtype, rows, gemms)
    if gpu.name != REFERENCE.name:
        body *= roofline / gemm_roofline_us(REFERENCE, dtype, rows, gemms)
    return max(fixed + body, roofline)


def _bracket(knots: Sequence[float], value: float) -> tuple[int, int, float]:
    """Neighbouring knots and the share of the upper one; above the last it extrapolates."""
    if value <= knots[0]:
        return 0, 0, 0.0
    low = min(bisect_right(knots, value) - 1, len(knots) - 2)
    return low, low + 1, (value - knots[low]) / (knots[low + 1] - knots[low])


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """What one attention kernel does on one rank in one layer."""

    sequences: int
    query_heads: int
    kv_heads: int
    read_bytes: float  # keys and values read, queries and outputs moved
    flops: float


def attention_roofline_us(gpu: Gpu, work: AttentionWork) -> float:
    """The larger of memory and compute time; attention computes in bf16 whatever the cache holds."""
    memory = work.read_bytes / (gpu.memory_tb_per_s * 1e6)
    return max(memory, work.flops / (gpu.bf16_tflops * 1e6))


def attention_us(gpu: Gpu, curve: AttentionCurve, work: AttentionWork) -> float:
    """One kernel launch over all sequences of a kind (prefilling or decoding)."""
    if work.sequences == 0:
        return 0.0
    return max(
        curve.fixed_us
        + curve.per_byte * work.read_bytes / (gpu.memory_tb_per_s * 1e6)
        + curve.per_flop * work.flops / (gpu.bf16_tflops * 1e6)
        + curve.per_query_head_us * work.sequences * work.query_heads
        + curve.per_kv_head_us * work.sequences * work.kv_heads,
        attention_roofline_us(gpu, work),
    )


def collective_us(gpu: Gpu, curves: dict[int, CollectiveCurve], ranks: int, message_bytes: float) -> float:
    """All-reduce, reduce-scatter or all-gather inside one node; the message is the whole tensor, bytes."""
    if ranks == 1 or message_bytes <= 0:
        return 0.0
    known = min(curves, key=lambda measured: abs(log(measured / ranks)))
    curve = curves[known]
    floor = curve.time_us[0]
    time = _log_interpolate(curve, message_bytes)
    scale = REFERENCE.peer_gb_per_s / gpu.peer_gb_per_s
    return max(floor + max(0.0, time - floor) * scale, collective_roofline_us(gpu, ranks, message_bytes))


def collective_roofline_us(gpu: Gpu, ranks: int, message_bytes: float) -> float:
    """Every rank must at least send its share of the others' result once: bytes (n-1)/n over one link."""
    return message_bytes * (ranks - 1) / ranks / (gpu.peer_gb_per_s * 1e3)


def _log_interpolate(curve: CollectiveCurve, message_bytes: float) -> float:
    sizes, times = curve.message_bytes, curve.time_us
    if message_bytes <= sizes[0]:
        return times[0]
    low = min(bisect_right(sizes, message_bytes) - 1, len(sizes) - 2)
    share = log(message_bytes / sizes[low]) / log(sizes[low + 1] / sizes[low])
    return exp(log(times[low]) + share * log(times[low + 1] / times[low]))


# Vidur's profile of NVLink send and receive (MIT licence): 8 us + bytes / 362 GB/s on a 450 GB/s link.
_P2P_FIXED_US, _P2P_LINK_SHARE = 8.0, 362 / 450
# Between nodes: RDMA latency of one message with its two launches; assumed, no table.
_P2P_NETWORK_FIXED_US = 20.0


def point_to_point_us(link_gb_per_s: float, message_bytes: float, *, between_nodes: bool) -> float:
    """One activation tensor from a stage to the next."""
    fixed = _P2P_NETWORK_FIXED_US if between_nodes else _P2P_FIXED_US
    return fixed + message_bytes / (_P2P_LINK_SHARE * link_gb_per_s * 1e3)
