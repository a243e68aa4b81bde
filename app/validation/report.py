"""A report: verdicts and measurements, as JSON and as a table for the terminal."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass

from rich.table import Table
from rich.text import Text

from app.validation.measured import Measurements
from app.validation.verdicts import Status, Verdict, kept

_STYLES = {Status.PASS: "green", Status.FAIL: "bold red", Status.NOT_MEASURABLE: "yellow"}


@dataclass(frozen=True, slots=True)
class Report:
    """One run against one application. `taken_at`: in words; `seconds`: how long it took."""

    application: str
    model: str
    url: str
    taken_at: str
    seconds: float
    verdicts: tuple[Verdict, ...]
    measurements: Measurements

    @property
    def kept(self) -> bool:
        return kept(self.verdicts)

    @property
    def summary(self) -> str:
        """As `9 pass, 1 fail, 2 not measurable here`."""
        counts = Counter(verdict.status for verdict in self.verdicts)
        return ", ".join(f"{counts[status]} {status}" for status in Status)


def report_json(report: Report) -> str:
    """Everything, for machines; `kept` is the verdict on the whole."""
    return json.dumps({**asdict(report), "kept": report.kept, "summary": report.summary}, indent=1) + "\n"


def report_table(report: Report) -> Table:
    table = Table(title=f"{report.model} at {report.url}", title_justify="left")
    for column in ("promise", "promised", "measured", "verdict"):
        table.add_column(column, no_wrap=True)
    table.add_column("how", overflow="fold", ratio=1)
    for verdict in report.verdicts:
        status = Text(verdict.status, style=_STYLES[verdict.status])
        promised, measured = promised_text(verdict), measured_text(verdict)
        table.add_row(verdict.title, promised, measured, status, verdict.detail)
    return table


def promised_text(verdict: Verdict) -> str:
    return f"{'≤' if verdict.sense == 'at most' else '≥'} {_number(verdict.promised)} {verdict.unit}"


def measured_text(verdict: Verdict) -> str:
    return "-" if verdict.measured is None else f"{_number(verdict.measured)} {verdict.unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
