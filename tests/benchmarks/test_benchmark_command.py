"""The command line of the benchmarks: nothing measured is lost, and nothing but the chosen one is loaded."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from benchmarks.__main__ import main, reach_loopback
from tests.documented import REPOSITORY


@pytest.mark.parametrize("option", ["--json", "--picture"])
def test_a_folder_that_is_not_there_is_refused_before_anything_is_measured(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "absent" / "file"
    with pytest.raises(SystemExit) as refused:
        main(["overhead", "--config", str(tmp_path / "absent.yaml"), option, str(file)])
    assert refused.value.code == 2
    assert f"no folder {file.parent}" in capsys.readouterr().err


def test_figures_are_printed_where_the_file_can_not_be_written(tmp_path: Path):
    (tmp_path / "file").mkdir()
    command = [sys.executable, "-m", "benchmarks", "machine", "--seconds", "1"]
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "file")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "IsADirectoryError" in done.stderr
    assert "| mean |" in done.stdout


def test_only_the_chosen_benchmark_is_loaded():
    code = "import sys; from benchmarks.__main__ import main\n"
    code += "try: main(['machine', '--help'])\n"
    code += "except SystemExit: print(*(name for name in sys.modules if name.startswith('benchmarks.')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "benchmarks.machine" in loaded
    assert not loaded & {"benchmarks.overload", "benchmarks.servers", "benchmarks.autoscale"}


@pytest.mark.parametrize("before", ["", "example.com"])
def test_servers_of_this_machine_are_reached_through_no_proxy(before: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    environ = {"NO_PROXY": before} if before else {}
    reach_loopback(environ)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert urllib.request.proxy_bypass("127.0.0.1")
    assert urllib.request.proxy_bypass("localhost")
    assert bool(urllib.request.proxy_bypass("example.com")) is bool(before)
    # Models that have to be fetched, and a server elsewhere.
    assert not urllib.request.proxy_bypass("example.org")
