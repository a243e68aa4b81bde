"""The coefficients file: fitted from the kernel tables, written with its sources and errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from placement.coefficients import Coefficients, CollectiveCurve, StepResidual
from placement.fitting.kernels import (
    fit_decode_attention,
    fit_gemm,
    fit_prefill_attention,
    read_rows,
    rows_with,
    thin_collective,
)
from placement.published import PublishedRun

SOURCE = (
    "Fitted by `python -m placement fit` to kernel and serving measurements of aiconfigurator-core 0.12.0 "
    "(NVIDIA, Apache-2.0): vLLM 0.24 kernels on an H100 SXM, NCCL 2.27, vLLM serving runs on H100 and H200."
)
# Where the fit of the residual starts: plausible, not measured.
START_RESIDUAL = StepResidual(
    step_fixed_us=500.0,
    step_per_sequence_us=8.0,
    sync_step_fixed_us=300.0,
    sync_step_per_sequence_us=15.0,
    layer_fixed_us=15.0,
    layer_eager_us=350.0,
    elementwise_traffic=1.0,
    gemm_bfloat16_in_situ=1.05,
    gemm_fp8_in_situ=0.9,
    gemm_bfloat16_compute_in_situ=1.12,
    gemm_fp8_compute_in_situ=1.15,
    attention_fp8_in_situ=1.3,
    peer_wait_us=1.0,
    request_fixed_ms=6.0,
    request_per_token_us=4.0,
)


def fit_kernels(measurements: Path) -> Coefficients:
    """Curves of the folder's kernel tables, with the residual still at its start."""
    errors: dict[str, float] = {}
    gemm, decode, prefill = {}, {}, {}
    cache, heads = ("kv_cache_dtype",), ("batch_size", "num_heads", "num_key_value_heads", "latency_us")
    gemm_rows = read_rows(
        measurements / "h100_gemm_vllm024.csv", ("gemm_dtype",), ("m", "n", "k", "latency_us")
    )
    decode_rows = read_rows(measurements / "h100_attention_decode_vllm024.csv", cache, ("step", *heads))
    prefill_rows = read_rows(measurements / "h100_attention_prefill_vllm024.csv", cache, ("isl", *heads))
    for dtype, size in (("bfloat16", 2), ("fp8", 1)):
        gemm[dtype], errors[f"gemm {dtype}"] = fit_gemm(rows_with(gemm_rows, "gemm_dtype", dtype))
        mine = rows_with(decode_rows, "kv_cache_dtype", dtype)
        decode[dtype], errors[f"decode attention {dtype}"] = fit_decode_attention(mine, size)
        mine = rows_with(prefill_rows, "kv_cache_dtype", dtype)
        prefill[dtype], errors[f"prefill attention {dtype}"] = fit_prefill_attention(mine)
    rounded = {name: round(value, 2) for name, value in errors.items()}
    return Coefficients(SOURCE, gemm, decode, prefill, _collectives(measurements), START_RESIDUAL, rounded)


def _collectives(measurements: Path) -> dict[str, dict[int, CollectiveCurve]]:
    numbers = ("num_gpus", "message_size", "latency_us")
    custom = read_rows(measurements / "h100_custom_allreduce_vllm024.csv", ("backend",), numbers)
    nccl = read_rows(measurements / "h100_nccl_2.27.csv", ("nccl_dtype", "op_name"), numbers)
    half = rows_with(nccl, "nccl_dtype", "half")
    tables = {
        "all_reduce": rows_with(custom, "backend", "vllm_graph"),
        "reduce_scatter": rows_with(half, "op_name", "reduce_scatter"),
        "all_gather": rows_with(half, "op_name", "all_gather"),
    }
    return {
        name: {ranks: thin_collective(rows_with(rows, "num_gpus", str(ranks)), 2) for ranks in (2, 4, 8)}
        for name, rows in tables.items()
    }


def with_residual(
    coefficients: Coefficients, residual: StepResidual, runs: Sequence[PublishedRun]
) -> Coefficients:
    """The same curves with a residual that was fitted to these runs."""
    return replace(coefficients, residual=residual, fitted_runs=tuple(run.fingerprint for run in runs))


def with_errors(coefficients: Coefficients, errors: Mapping[str, float]) -> Coefficients:
    """The same with the errors of the residual's fit added."""
    rounded = {name: round(value, 2) for name, value in errors.items()}
    return replace(coefficients, fit_error_percent={**coefficients.fit_error_percent, **rounded})


def to_json(coefficients: Coefficients) -> str:
    """The file's text; lists stay on one line each."""
    data = json.dumps(asdict(coefficients), indent=1)
    return _join_lists(data) + "\n"


def _join_lists(text: str) -> str:
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if inside:
            lines[-1] += line.strip() + (" " if line.rstrip().endswith(",") else "")
            inside = "]" not in line
        else:
            lines.append(line)
            inside = line.rstrip().endswith("[")
    return "\n".join(lines)
