"""Every notebook runs from top to bottom, in a kernel of its own, and is stored without outputs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = REPOSITORY / "notebooks"
# Needs a running application: tests/integration/test_smollm2.py runs it.
SERVED = {"talk_by_handle.ipynb"}
ALL = {notebook.name for notebook in NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.parametrize("name", sorted(ALL - SERVED))
def test_it_runs(name: str):
    command = [sys.executable, "-m", "pytest", "--nbmake", f"notebooks/{name}", "-q"]
    command += ["-p", "no:cacheprovider", "--nbmake-timeout=180"]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("name", sorted(ALL))
def test_it_is_stored_without_outputs(name: str):
    cells = json.loads((NOTEBOOKS / name).read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_one_that_needs_an_application_is_run_with_one():
    tests = (REPOSITORY / "tests/integration/test_smollm2.py").read_text()
    assert all(f"notebooks/{name}" in tests for name in SERVED)
