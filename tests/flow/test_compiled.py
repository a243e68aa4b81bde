"""The core as machine code (scripts/compile) decides as its sources do, and never as older ones did."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.flow import build_folder

pytestmark = pytest.mark.skipif(not build_folder().is_dir(), reason="not compiled: scripts/compile")

REPOSITORY = Path(__file__).parents[2]
WHICH = "import app.flow.controller as one; print(one.__file__)"
SIMULATE = ["-m", "placement", "simulate", "--generate", "bursty", "--requests", "3000", "--returns"]


def python(arguments: list[str], folder: Path, interpreted: bool = False) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PROMISESERVE_INTERPRETED"}
    if interpreted:
        environment["PROMISESERVE_INTERPRETED"] = "1"
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(REPOSITORY / "app" / "flow", tmp_path / "app" / "flow")
    return tmp_path


def test_both_decide_the_same_to_the_last_bit(tmp_path: Path):
    """Of overload, with everything that is learnt on the way."""
    results = []
    for interpreted in (False, True):
        path = tmp_path / f"{interpreted}.json"
        python([*SIMULATE, "--json", str(path)], REPOSITORY, interpreted)
        results.append(path.read_bytes())
    assert results[0] == results[1]


def test_a_build_runs_where_it_is_of_the_present_sources(copy: Path):
    assert python(["-c", WHICH], copy).strip().endswith(".so")


def test_what_was_changed_runs_as_it_is_written(copy: Path):
    with open(copy / "app" / "flow" / "pace.py", "a") as source:
        source.write("# Changed.\n")
    assert python(["-c", WHICH], copy).strip().endswith("controller.py")


def test_the_environment_keeps_to_the_sources(copy: Path):
    assert python(["-c", WHICH], copy, interpreted=True).strip().endswith("controller.py")


def test_a_build_that_this_machine_can_not_load_is_passed_over(copy: Path):
    (library,) = (copy / "app" / "flow" / "compiled").glob("*/core__mypyc*")
    library.write_bytes(b"of another machine")
    assert python(["-W", "ignore", "-c", WHICH], copy).strip().endswith("controller.py")
