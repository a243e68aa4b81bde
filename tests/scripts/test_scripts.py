"""The shell scripts, with a stand-in for Python: what they run, and how they end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documented import REPOSITORY


def program(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/usr/bin/env bash\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts in a folder of their own, whose `bin` comes first on the path."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    return tmp_path


def run(
    checkout: Path, name: str, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    given = {"PATH": f"{checkout}/bin:{os.environ['PATH']}", "VENV": str(checkout / "venv")}
    command = [str(checkout / "scripts" / name), *arguments]
    return subprocess.run(command, env=given, cwd=cwd or checkout, capture_output=True, text=True, timeout=60)


@pytest.fixture
def serving(checkout: Path) -> Path:
    """Nothing to install, and an interpreter that says what it was asked to run."""
    program(checkout / "scripts" / "install", "")
    program(checkout / "venv" / "bin" / "python", 'shift 2; printf "%s\\n" "$@"')
    for folder in ("serve_configs", "elsewhere"):
        (checkout / folder).mkdir()
        (checkout / folder / f"{folder}.yaml").touch()
    return checkout


def test_a_configuration_is_looked_for_where_its_user_is(serving: Path):
    told = run(serving, "serve", "elsewhere.yaml", "--num-cpus=2", cwd=serving / "elsewhere").stdout.split()
    assert told == [f"{serving}/elsewhere/elsewhere.yaml", "--num-cpus=2"]


def test_a_configuration_of_the_repository_is_found_from_anywhere(serving: Path):
    name = "serve_configs/serve_configs.yaml"
    assert run(serving, "serve", name).stdout.split() == [f"{serving}/{name}"]
    assert run(serving, "serve", name, cwd=serving / "elsewhere").stdout.split() == [name]


def test_options_may_come_first(serving: Path):
    given = ["--port", "6380", "elsewhere.yaml"]
    told = run(serving, "serve", *given, cwd=serving / "elsewhere").stdout.split()
    assert told == [*given[:2], f"{serving}/elsewhere/elsewhere.yaml"]


def test_without_a_configuration_the_default_is_served(serving: Path):
    assert run(serving, "serve").stdout.split() == ["serve_configs/smollm2-cpu.yaml"]


def test_an_environment_whose_interpreter_is_gone_is_repaired(checkout: Path):
    (checkout / "requirements").mkdir()
    for file in ("requirements/cpu.txt", "pyproject.toml"):
        (checkout / file).touch()
    (checkout / "app" / "flow").mkdir(parents=True)
    (checkout / "app" / "flow" / "core.py").touch()
    links = checkout / "venv" / "bin"
    program(links / "pip", "")
    # As venv: it makes what is not there, and leaves a link as it is.
    made = program(checkout / "made", "true")
    program(
        checkout / "bin" / "python3.11",
        f'for one in python python3; do [[ -L $3/bin/$one ]] || cp {made} "$3/bin/$one"; done',
    )
    for name in ("python", "python3"):
        (links / name).symlink_to(checkout / "gone")
    done = run(checkout, "install", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is ready" in done.stdout
    assert not (links / "python").is_symlink()


def test_an_audit_that_can_not_begin_is_no_finding(checkout: Path):
    program(checkout / "bin" / "python3.11", "echo no module named venv; exit 1")
    done = run(checkout, "audit")
    assert done.returncode == 3
    assert "no module named venv" in done.stderr
    assert "nothing is known" in done.stderr


PYPROJECT = """
[build-system]
requires = []
[project]
dependencies = ["one"]
[project.optional-dependencies]
cpu = []
dev = ["two"]
"""
# pip, which resolves `one` to 1.0, and to 2.0 where nothing is said about it; all else is this Python.
PIP = f"""
[[ $* == *"-m pip install"* ]] || exec {sys.executable} "$@"
[[ $* == *--report* ]] || exit 0
version=1.0
while (($#)); do
  case $1 in
    --report) report=$2 ;;
    -c) constraints=$2 ;;
    -r) [[ $2 != *dev.in ]] || version=2.0 ;;
  esac
  shift
done
[[ -z ${{constraints:-}} ]] || version=$(sed -n "s/^one==//p" "$constraints")
echo '{{"install": [{{"metadata": {{"name": "one", "version": "'$version'"}}}}]}}' > "$report"
"""


def test_both_locks_have_one_version_of_a_package(checkout: Path):
    (checkout / "requirements").mkdir()
    (checkout / "pyproject.toml").write_text(PYPROJECT)
    python = program(checkout / "pip", PIP)
    program(checkout / "bin" / "python3.11", f'mkdir -p "$3/bin" && cp {python} "$3/bin/python"')
    done = run(checkout, "lock")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one==1.0" in (checkout / "requirements" / "cpu.txt").read_text().split()
    assert "one" not in (checkout / "requirements" / "dev.txt").read_text().splitlines()[1:]
    assert "one==2.0" not in (checkout / "requirements" / "dev.txt").read_text()
