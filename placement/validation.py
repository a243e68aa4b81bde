"""Predicted against published, row by row, and the errors by axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from placement.coefficients import Coefficients
from placement.published import PublishedRun, plan_of, predict, reading_of
from placement.throughput import ThroughputRow, offline_tokens_per_s


@dataclass(frozen=True, slots=True)
class ValidatedRow:
    """One published run beside its prediction. Errors are predicted / published - 1; None: not published."""

    run: PublishedRun
    reading: str
    fitted: bool
    ttft_ms: float
    tpot_ms: float
    ttft_error: float | None
    tpot_error: float | None
    refused: str | None = None  # why there is no prediction
    unmeasured: tuple[str, ...] = ()  # what of the prediction no published H100 measurement backs


@dataclass(frozen=True, slots=True)
class ValidatedThroughput:
    row: ThroughputRow
    tokens_per_s: float
    error: float


def validate_run(run: PublishedRun, coefficients: Coefficients) -> ValidatedRow:
    """Simulate one row; what can't run is refused with the reason instead of a figure."""
    reading = reading_of(run).name
    try:
        prediction = predict(run, coefficients)
    except ValueError as error:
        return ValidatedRow(run, reading, False, 0.0, 0.0, None, None, str(error))
    return ValidatedRow(
        run,
        reading,
        fitted=run.fingerprint in coefficients.fitted_runs,
        ttft_ms=prediction.ttft_ms,
        tpot_ms=prediction.tpot_ms,
        ttft_error=prediction.ttft_ms / run.ttft_ms - 1 if run.ttft_ms else None,
        tpot_error=prediction.tpot_ms / run.tpot_ms - 1 if run.tpot_ms else None,
        unmeasured=plan_of(run, reading_of(run)).unmeasured,
    )


def validate_throughput(row: ThroughputRow, coefficients: Coefficients) -> ValidatedThroughput:
    predicted = offline_tokens_per_s(row, coefficients)
    return ValidatedThroughput(row, predicted, predicted / row.tokens_per_s - 1)


def mean_absolute_percent(errors: Sequence[float | None]) -> float | None:
    """Over the rows that have a figure; None when none has."""
    known = [abs(error) for error in errors if error is not None]
    return 100 * fmean(known) if known else None
