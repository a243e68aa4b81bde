"""Kernel tables (CSV, microseconds) to curves. Every curve is linear in terms with a physical reading."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from math import inf
from pathlib import Path

import numpy as np

from placement.coefficients import AttentionCurve, CollectiveCurve, GemmCurve
from placement.fitting.least_squares import Array, mean_absolute_percentage, relative_non_negative
from placement.kernels import REFERENCE

_HEAD_DIM = 128  # of every row of the attention tables
_MEMORY = REFERENCE.memory_tb_per_s * 1e6  # bytes/us
_BF16 = REFERENCE.bf16_tflops * 1e6  # flops/us

Rows = list[dict[str, str]]


def read_rows(file: Path, texts: Sequence[str], numbers: Sequence[str]) -> Rows:
    """A table's rows. ValueError names a column that is missing, or has no positive number."""
    with file.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    if not rows:
        raise ValueError(f"{file.name}: no rows")
    for line, row in enumerate(rows, start=2):
        for column in (*texts, *numbers):
            if row.get(column) is None:
                raise ValueError(f"{file.name}: line {line}: {column} is missing")
        for column in numbers:
            if not _is_positive(row[column]):
                raise ValueError(
                    f"{file.name}: line {line}: {column}: {row[column]!r} is not a positive number"
                )
    return rows


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < inf
    except ValueError:
        return False


def rows_with(rows: Rows, column: str, value: str) -> Rows:
    """Those that have this value. ValueError where there is none."""
    chosen = [row for row in rows if row[column] == value]
    if not chosen:
        raise ValueError(f"{column}: no row has {value!r}")
    return chosen


def _columns(rows: Rows, *names: str) -> list[Array]:
    return [np.array([float(row[name]) for row in rows]) for name in names]


def fit_gemm(rows: Rows) -> tuple[GemmCurve, float]:
    """One dtype. Returns the curve and its mean absolute percentage error."""
    by_m: dict[float, Rows] = defaultdict(list)
    for row in rows:
        by_m[float(row["m"])].append(row)
    knots = sorted(by_m)
    solutions, errors = [], []
    for m in knots:
        n, k, time = _columns(by_m[m], "n", "k", "latency_us")
        features = np.stack([np.ones_like(n), n * k / 1e6, n / 1e3, k / 1e3], axis=1)
        solution = relative_non_negative(features, time)
        solutions.append(solution)
        errors.append(mean_absolute_percentage(features @ solution, time))
    fixed, weight, output, inputs = (
        tuple(round(float(v), 4) for v in column) for column in np.array(solutions).T
    )
    return GemmCurve(tuple(knots), fixed, weight, output, inputs), float(np.mean(errors))


def fit_decode_attention(rows: Rows, kv_bytes: int) -> tuple[AttentionCurve, float]:
    """One decode step over a batch of equal contexts; `kv_bytes` a stored value."""
    batch, step, heads, kv_heads, time = _columns(
        rows, "batch_size", "step", "num_heads", "num_key_value_heads", "latency_us"
    )
    context = step + 1
    read = batch * (context * kv_heads * 2 * kv_bytes + 2 * heads * 2) * _HEAD_DIM
    flops = 4.0 * batch * context * heads * _HEAD_DIM
    return _fit_attention(read, flops, batch * heads, batch * kv_heads, time)


def fit_prefill_attention(rows: Rows) -> tuple[AttentionCurve, float]:
    """Causal prefill of equal prompts without earlier context; queries, keys, values and outputs in bf16."""
    batch, length, heads, kv_heads, time = _columns(
        rows, "batch_size", "isl", "num_heads", "num_key_value_heads", "latency_us"
    )
    read = batch * length * (2 * heads + 2 * kv_heads) * _HEAD_DIM * 2
    flops = 4.0 * batch * length * (length + 1) / 2 * heads * _HEAD_DIM
    return _fit_attention(read, flops, batch * heads, batch * kv_heads, time)


def _fit_attention(
    read: Array, flops: Array, queries: Array, keys: Array, time: Array
) -> tuple[AttentionCurve, float]:
    features = np.stack([np.ones_like(time), read / _MEMORY, flops / _BF16, queries, keys], axis=1)
    solution = relative_non_negative(features, time)
    error = mean_absolute_percentage(features @ solution, time)
    return AttentionCurve(*(round(float(value), 6) for value in solution)), error


def thin_collective(rows: Rows, bytes_per_element: int) -> CollectiveCurve:
    """Every second size of a table that doubles from row to row: the skipped ones check the interpolation."""
    points = sorted((int(row["message_size"]) * bytes_per_element, float(row["latency_us"])) for row in rows)
    times, highest = [], 0.0
    for _, time in points[::2]:  # a longer message is never faster: undo measurement noise
        highest = max(highest, time)
        times.append(highest)
    return CollectiveCurve(tuple(float(size) for size, _ in points[::2]), tuple(times))
