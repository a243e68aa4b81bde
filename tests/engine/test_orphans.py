"""No engine process outlives its parent: a tree of real processes, and a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.engine.orphans import CHECK_INTERVAL_S
from tests.fakes import WAIT_S

ROOT = Path(__file__).parents[2]

# A replica that spawns an engine core, as vLLM does, and prints its id when the watch has begun. With
# `late` the core loads its plugins only when the replica has died.
TREE = """
import multiprocessing, os, sys, time

def core(ready, late):
    if late:
        ready.put(os.getpid())
        while multiprocessing.parent_process().is_alive():
            time.sleep(0.01)
    from app.engine import orphans
    orphans.register()
    ready.put(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    method, late = sys.argv[1], sys.argv[2] == "late"
    context = multiprocessing.get_context(method)
    ready = context.SimpleQueue()
    context.Process(target=core, args=(ready, late)).start()
    print(ready.get(), flush=True)
    time.sleep(600)
"""


@pytest.fixture
def tree(tmp_path):
    """Starts the tree: the replica, and its core as psutil sees it. Both are ended with the test."""
    program = tmp_path / "tree.py"
    program.write_text(TREE)
    started: list[psutil.Process] = []

    def start(method: str, late: bool = False, engine: str = "1") -> tuple[psutil.Process, psutil.Process]:
        replica = psutil.Popen(
            [sys.executable, str(program), method, "late" if late else "early"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PROMISESERVE_ENGINE": engine},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(replica)
        core = psutil.Process(int(replica.stdout.readline()))
        started.append(core)
        return replica, core

    yield start
    for process in started:
        if process.is_running():
            process.kill()
        process.wait(WAIT_S)


def kill(process: psutil.Process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT_S)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_core_ends_when_its_replica_is_killed(tree, method):
    replica, core = tree(method)
    assert core.is_running()
    kill(replica)
    core.wait(WAIT_S)


def test_a_core_that_is_still_starting_when_its_replica_is_killed_ends_too(tree):
    replica, core = tree("spawn", late=True)
    kill(replica)
    core.wait(WAIT_S)


def test_a_core_lives_as_long_as_its_replica(tree):
    _, core = tree("spawn")
    with pytest.raises(psutil.TimeoutExpired):
        core.wait(2 * CHECK_INTERVAL_S)


def test_a_process_that_is_no_engine_is_left_alone(tree):
    replica, core = tree("spawn", engine="0")
    kill(replica)
    with pytest.raises(psutil.TimeoutExpired):
        core.wait(2 * CHECK_INTERVAL_S)
