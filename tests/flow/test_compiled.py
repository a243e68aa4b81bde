"""The core as machine code (scripts/compile) decides as its sources do, and never as older ones did."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import app.flow

needs_build = pytest.mark.skipif(
    not app.flow.COMPILED, reason="interpreted, or not compiled: scripts/compile"
)
LIBRARY = "app.flow.core__mypyc"

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


@needs_build
def test_both_decide_the_same_to_the_last_bit(tmp_path: Path):
    """Of overload, with everything that is learnt on the way."""
    results = []
    for interpreted in (False, True):
        path = tmp_path / f"{interpreted}.json"
        python([*SIMULATE, "--json", str(path)], REPOSITORY, interpreted)
        results.append(path.read_bytes())
    assert results[0] == results[1]


@needs_build
def test_a_build_runs_where_it_is_of_the_present_sources(copy: Path):
    assert python(["-c", WHICH], copy).strip().endswith(".so")


@needs_build
def test_what_was_changed_runs_as_it_is_written(copy: Path):
    with open(copy / "app" / "flow" / "pace.py", "a") as source:
        source.write("# Changed.\n")
    assert python(["-c", WHICH], copy).strip().endswith("controller.py")


@needs_build
def test_the_environment_keeps_to_the_sources(copy: Path):
    assert python(["-c", WHICH], copy, interpreted=True).strip().endswith("controller.py")


@needs_build
def test_a_build_that_this_machine_can_not_load_is_passed_over(copy: Path):
    (library,) = (copy / "app" / "flow" / "compiled").glob("*/core__mypyc*")
    library.write_bytes(b"of another machine")
    assert python(["-W", "ignore", "-c", WHICH], copy).strip().endswith("controller.py")


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as if it had looked for no build yet."""
    monkeypatch.delenv("PROMISESERVE_INTERPRETED", raising=False)
    monkeypatch.setattr(app.flow, "__path__", list(app.flow.__path__))
    loaded = sys.modules.pop(LIBRARY, None)
    yield
    sys.modules.pop(LIBRARY, None)
    if loaded is not None:
        sys.modules[LIBRARY] = app.flow.core__mypyc = loaded


@pytest.mark.usefixtures("unloaded")
def test_a_build_goes_before_the_sources(tmp_path: Path):
    (tmp_path / "core__mypyc.py").touch()
    assert app.flow._use_build(str(tmp_path))
    assert app.flow.__path__[0] == str(tmp_path)


@pytest.mark.usefixtures("unloaded")
def test_one_that_can_not_be_loaded_is_said_to_be_passed_over(tmp_path: Path):
    (tmp_path / f"core__mypyc{EXTENSION_SUFFIXES[0]}").write_bytes(b"of another machine")
    with pytest.warns(UserWarning, match="can't be loaded"):
        assert not app.flow._use_build(str(tmp_path))
    assert str(tmp_path) not in app.flow.__path__


@pytest.mark.usefixtures("unloaded")
def test_without_a_build_the_sources_run(tmp_path: Path):
    assert not app.flow._use_build(str(tmp_path / "none"))
