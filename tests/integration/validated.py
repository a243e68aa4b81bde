"""`python -m app validate` as a user runs it, and what its report says."""

from __future__ import annotations

import html
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.cluster import REPOSITORY

PROMISES = 11
BROKEN = 3
# Seconds; the load is twice so long.
LOAD_S = 4
FILLING_S = 4


@dataclass(frozen=True)
class Validated:
    status: int
    output: str
    page: Path
    verdicts: dict[str, dict[str, Any]]
    measurements: dict[str, Any]

    @property
    def failing(self) -> list[str]:
        return [name for name, verdict in self.verdicts.items() if verdict["status"] == "fail"]

    @property
    def not_measurable(self) -> list[str]:
        return [name for name, one in self.verdicts.items() if one["status"] == "not measurable here"]


def validate(config: Path, folder: Path, load_s: float = LOAD_S) -> Validated:
    document, page = folder / "report.json", folder / "report.html"
    command = [sys.executable, "-m", "app", "validate", str(config), "--json", str(document)]
    command += ["--html", str(page), f"--load-s={load_s}", f"--filling-s={FILLING_S}"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)
    assert run.returncode in (0, BROKEN), run.stderr
    report = json.loads(document.read_text())
    verdicts = {verdict["promise"]: verdict for verdict in report["verdicts"]}
    return Validated(run.returncode, run.stdout, page, verdicts, report["measurements"])


def assert_complete(run: Validated) -> None:
    """Every promise has its verdict and how it came by it, everywhere; the exit status tells the whole."""
    assert len(run.verdicts) == PROMISES
    for verdict in run.verdicts.values():
        assert verdict["detail"]
        assert (verdict["measured"] is None) == (verdict["status"] == "not measurable here")
        assert verdict["title"] in run.output
        assert html.escape(verdict["title"]) in run.page.read_text()
    assert run.status == (BROKEN if run.failing else 0)
    assert run.measurements["failures"] == {}
