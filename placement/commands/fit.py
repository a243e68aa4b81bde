"""`placement fit`: repeat the fit of every coefficient."""

from __future__ import annotations

import argparse
from pathlib import Path

from placement.coefficients import DEFAULT_FILE, Coefficients
from placement.fitting.coefficient_file import fit_kernels, to_json, with_errors, with_residual
from placement.fitting.residual import fit_residual, usable_runs
from placement.published import PublishedRun, read_published
from placement.validation import mean_absolute_percent, validate_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--measurements", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--output", type=Path, default=DEFAULT_FILE, help="file to write")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of the residual's fit (minutes each)")


def run(arguments: argparse.Namespace) -> int:
    coefficients = fit_kernels(arguments.measurements)
    runs = read_published(arguments.measurements / "vllm_hopper_published.csv")
    usable = usable_runs(coefficients, runs)
    residual = fit_residual(coefficients, usable, rounds=arguments.rounds)
    fitted = with_residual(coefficients, residual, usable)
    fitted = with_errors(fitted, errors_by_use(fitted, runs))
    arguments.output.write_text(to_json(fitted))
    print(f"wrote {arguments.output}")
    for name, error in fitted.fit_error_percent.items():
        print(f"  {name}: {error:.1f} % mean absolute error")
    return 0


def errors_by_use(coefficients: Coefficients, runs: list[PublishedRun]) -> dict[str, float]:
    """Mean absolute error, percent, of TPOT and TTFT, for the fitted and the held-out rows that there are."""
    rows = [validate_run(run, coefficients) for run in runs]
    errors = {}
    for name, fitted in (("fitted", True), ("held-out", False)):
        chosen = [row for row in rows if row.fitted is fitted]
        for axis, found in (
            ("TPOT", mean_absolute_percent([row.tpot_error for row in chosen])),
            ("TTFT", mean_absolute_percent([row.ttft_error for row in chosen])),
        ):
            if found is not None:
                errors[f"{name} {axis}"] = found
    return errors
