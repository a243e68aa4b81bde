"""`placement validate`: predicted against published, row by row."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from placement.coefficients import default_coefficients
from placement.plot import Series, scatter
from placement.published import read_published
from placement.report import percent, table, write_json
from placement.throughput import published_throughput
from placement.validation import (
    ValidatedRow,
    ValidatedThroughput,
    mean_absolute_percent,
    validate_run,
    validate_throughput,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--csv", type=Path, help="published serving runs, vllm_hopper_published.csv's columns"
    )
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    parser.add_argument("--plot", type=Path, help="write predicted against published TPOT as SVG")


def run(arguments: argparse.Namespace) -> int:
    """Without a CSV only the full-load rows that ship with the package are checked."""
    coefficients = default_coefficients()
    runs = read_published(arguments.csv) if arguments.csv else []
    rows = [validate_run(row, coefficients) for row in runs]
    full_load = [validate_throughput(row, coefficients) for row in published_throughput()]
    if rows:
        print(_rows_table(rows), end="\n\n")
    print(_throughput_table(full_load), end="\n\n")
    print(_summary(rows, full_load))
    if arguments.json:
        write_json(arguments.json, {"rows": rows, "throughput": full_load})
    if arguments.plot:
        arguments.plot.write_text(_picture(rows))
    return 0


def _rows_table(rows: Sequence[ValidatedRow]) -> str:
    header = [
        "model",
        "GPU",
        "TP",
        "PP",
        "lengths",
        "clients",
        "reading",
        "used",
        "TTFT ms",
        "published",
        "error",
    ]
    header += ["TPOT ms", "published", "error"]
    return table(header, [_row_cells(row) for row in rows])


def _row_cells(row: ValidatedRow) -> list[str]:
    run = row.run
    used = "refused" if row.refused else ("fit" if row.fitted else "held out")
    return [
        run.model.split("/")[-1],
        run.system,
        str(run.tensor_parallel),
        str(run.pipeline_parallel) + ("*" if row.unmeasured else ""),
        f"{run.prompt_tokens}/{run.output_tokens}",
        str(run.concurrency),
        row.refused or row.reading,
        used,
        f"{row.ttft_ms:.0f}",
        f"{run.ttft_ms:.0f}",
        percent(row.ttft_error),
        f"{row.tpot_ms:.2f}",
        f"{run.tpot_ms:.2f}",
        percent(row.tpot_error),
    ]


def _throughput_table(rows: Sequence[ValidatedThroughput]) -> str:
    header = ["source", "TP", "replicas", "lengths", "tokens/s", "published", "error"]
    cells = [
        [
            item.row.source,
            str(item.row.tensor_parallel),
            str(item.row.replicas),
            f"{item.row.prompt_tokens}/{item.row.output_tokens}",
            f"{item.tokens_per_s:.0f}",
            f"{item.row.tokens_per_s:.0f}",
            percent(item.error),
        ]
        for item in rows
    ]
    return table(header, cells)


def _summary(rows: Sequence[ValidatedRow], full_load: Sequence[ValidatedThroughput]) -> str:
    lines = []
    for name, fitted in (("held out", False), ("fitted", True)):
        chosen = [row for row in rows if row.fitted is fitted and row.refused is None]
        for axis, errors in (
            ("TPOT", [row.tpot_error for row in chosen]),
            ("TTFT", [row.ttft_error for row in chosen]),
        ):
            error = mean_absolute_percent(errors)
            if error is not None:
                known = sum(one is not None for one in errors)
                lines.append([axis, name, str(known), f"{error:.1f} %"])
    error = mean_absolute_percent([item.error for item in full_load])
    lines.append(["throughput", "held out (another engine)", str(len(full_load)), f"{error or 0.0:.1f} %"])
    note = "* no published H100 measurement stands behind such a row."
    return table(["axis", "rows", "count", "mean absolute error"], lines) + "\n" + note


def _picture(rows: Sequence[ValidatedRow]) -> str:
    def points(fitted: bool) -> list[tuple[float, float, str]]:
        return [
            (row.run.tpot_ms, row.tpot_ms, row.run.id)
            for row in rows
            if row.fitted is fitted and row.refused is None
        ]

    top = max((row.run.tpot_ms for row in rows), default=1.0)
    series = [
        Series("held out", points(False)),
        Series("fitted", points(True)),
        Series("equal", [(0, 0, ""), (top, top, "")], line=True),
    ]
    return scatter("Time per output token", "published, ms", "predicted, ms", series)
