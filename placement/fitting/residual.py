"""The step's residual: fitted so that whole simulated benchmarks come out as published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from placement.coefficients import Coefficients, StepResidual
from placement.fitting.least_squares import Array, levenberg_marquardt
from placement.published import PublishedRun, predict

# TTFT is noisier than TPOT (first bursts, client jitter): it weighs less.
TTFT_WEIGHT = 0.3
# One row that the model can't explain must not bend the physics: its pull is capped.
_LARGEST_ERROR = 0.25
# Pull towards the start, in log units: what the rows don't determine stays plausible.
_PRIOR_WEIGHT = 0.05
# Not fitted: element-wise kernels can't move less than their bytes; nothing shows that they move more.
_ASSUMED = ("elementwise_traffic",)


def held_out(run: PublishedRun) -> bool:
    """Rows that no fit sees: a whole model, a whole TP of a system, long prompts at TP8, Qwen in FP8."""
    whole_model = "8B" in run.model
    whole_tp = "70B" in run.model and "h200" in run.system and run.tensor_parallel == 2
    long_prompts = "Qwen3" in run.model and run.tensor_parallel == 8 and run.prompt_tokens >= 4000
    middle_outputs = "Qwen3" in run.model and run.tensor_parallel == 2 and run.output_tokens == 512
    return whole_model or whole_tp or long_prompts or middle_outputs or (run.fp8 and "Qwen3" in run.model)


def usable_runs(start: Coefficients, runs: Sequence[PublishedRun]) -> list[PublishedRun]:
    """What a fit sees: runs with both times, not held out, without preemption (there the cache decides)."""
    timed = [run for run in runs if run.ttft_ms and run.tpot_ms and not held_out(run)]
    usable = [run for run in timed if not _preempts(run, start)]
    if not usable:
        raise ValueError(f"none of {len(runs)} published runs can be fitted to")
    return usable


def _preempts(run: PublishedRun, start: Coefficients) -> bool:
    try:
        return predict(run, start).preemptions > 0
    except ValueError as error:
        raise ValueError(f"{run.id}: {error}") from error


def fit_residual(start: Coefficients, usable: Sequence[PublishedRun], *, rounds: int = 4) -> StepResidual:
    """Fit to all of `usable`."""
    names = [name for name in asdict(start.residual) if name not in _ASSUMED]
    origin = np.log([getattr(start.residual, name) for name in names])

    def errors(point: Array) -> Array:
        values = {name: float(np.exp(v)) for name, v in zip(names, point, strict=True)}
        trial = replace(start, residual=replace(start.residual, **values))
        out = [_error(run, trial) for run in usable]
        return np.array([value for pair in out for value in pair] + list(_PRIOR_WEIGHT * (point - origin)))

    best, _ = levenberg_marquardt(errors, origin, rounds)
    fitted = {name: float(f"{np.exp(value):.4g}") for name, value in zip(names, best, strict=True)}
    return replace(start.residual, **fitted)


def _error(run: PublishedRun, coefficients: Coefficients) -> tuple[float, float]:
    prediction = predict(run, coefficients)
    return (
        _soften(np.log(prediction.tpot_ms / run.tpot_ms)),
        TTFT_WEIGHT * _soften(np.log(prediction.ttft_ms / run.ttft_ms)),
    )


def _soften(error: float) -> float:
    """Linear near zero, bounded far away."""
    return float(_LARGEST_ERROR * np.tanh(error / _LARGEST_ERROR))
