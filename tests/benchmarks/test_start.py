"""The phases of a start from what is written of it; rounds to figures; files out of the page cache."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest

from app.engine.phases import Phases
from benchmarks.page_cache import evict
from benchmarks.start import Round, figures, table
from benchmarks.start_phases import phases_s

LAUNCHER = """\
   0.1 s  Configuration c.yaml is valid; logs are in /tmp/promiseserve-ab
   0.3 s  Starting Ray: --num-cpus=2
   4.8 s  Ray runs. For other shells: source /tmp/promiseserve-ab/env
   4.8 s  Starting the application
  26.0 s  Ready. Try:
"""
BEGAN_S = datetime(2026, 1, 2, 3, 4, 0).timestamp()


def engine_line(*laps_s: float) -> str:
    """As the engine logs it, at 03:04:25,500."""
    clock = iter((0.0, *laps_s))
    phases = Phases(lambda: next(clock))
    for name in ("import", "configuration", "core", "application"):
        phases.end(name)
    line = f"The engine has started in {phases}."
    return f"(ServeReplica:llm:Engine pid=7) INFO 2026-01-02 03:04:25,500 llm_Engine ab12 -- {line}\n"


def test_phases_are_the_whole_time():
    log = "other lines\n" + engine_line(5.2, 5.3, 14.9, 15.0)
    phases = phases_s(LAUNCHER, log, BEGAN_S, BEGAN_S + 5.0, BEGAN_S + 26.2)
    assert {name: round(seconds, 3) for name, seconds in phases.items()} == {
        "launcher": 0.5,
        "Ray": 4.5,
        "Serve, until the engine's replica starts": 5.5,
        "engine: import": 5.2,
        "engine: configuration": 0.1,
        "engine: core": 9.6,
        "engine: application": 0.1,
        "until /ready answers": 0.7,
    }
    assert sum(phases.values()) == pytest.approx(26.2)


@pytest.mark.parametrize(
    ("launcher", "log", "missing"),
    [
        (LAUNCHER.replace("Starting Ray", "-"), engine_line(1, 2, 3, 4), "Starting Ray"),
        (LAUNCHER.replace("Ray runs", "-"), engine_line(1, 2, 3, 4), "Ray runs"),
        (LAUNCHER, "nothing yet", "The engine has started"),
    ],
)
def test_a_missing_line_is_named(launcher: str, log: str, missing: str):
    with pytest.raises(LookupError, match=missing):
        phases_s(launcher, log, BEGAN_S, BEGAN_S + 5.0, BEGAN_S + 26.2)


def test_ratios_are_of_rounds_and_medians_of_each_phase():
    taken = figures([Round(10, 20, {"Ray": 4}), Round(20, 30, {"Ray": 5}), Round(10, 18, {"Ray": 9})])
    assert taken["ratio"]["median"] == 1.8
    assert (taken["bare_s"], taken["ours_s"], taken["phases_s"]) == (10, 20, {"Ray": 5})
    text = table({"model": "tiny", "cold": taken, "warm": taken})
    assert "| warm | 3 | 10.0 | 20.0 | 1.80 |" in text
    assert "| Ray | 5.0 | 5.0 |" in text


def test_of_five_rounds_it_says_how_sure_it_is():
    taken = figures([Round(10, ours_s, {"Ray": 4}) for ours_s in (15, 17, 18, 19, 20)])
    assert "| warm | 5 | 10.0 | 18.0 | 1.80 [1.50, 2.00] |" in table({"model": "tiny", "warm": taken})


def test_eviction_is_of_all_files_of_folders_and_leaves_them_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "file"
    file.write_bytes(b"content")
    evicted = []

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        evicted.append((os.readlink(f"/proc/self/fd/{descriptor}"), offset, length, advice))

    # Whether a page leaves is the file system's word: some keep all in memory.
    monkeypatch.setattr(os, "posix_fadvise", advise)
    evict([tmp_path, tmp_path / "absent"])
    assert evicted == [(str(file), 0, 0, os.POSIX_FADV_DONTNEED)]
    assert file.read_bytes() == b"content"
