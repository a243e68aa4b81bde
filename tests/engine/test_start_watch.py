"""An engine that does not start ends, with all that it has started; one that does is left alone."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from app.engine.start_watch import bounded_start
from tests.fakes import WAIT_S

ROOT = Path(__file__).parents[2]
# A replica whose engine core is there and never ready.
PROGRAM = """
import subprocess, time
from app.engine.start_watch import bounded_start
print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid, flush=True)
with bounded_start(0.0):
    time.sleep(600)
"""


def watches() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "start-watch"]


def test_a_start_that_takes_too_long_is_ended_while_it_lasts():
    ended = threading.Event()
    with bounded_start(0.0, ended.set):
        assert ended.wait(WAIT_S)


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_start_that_is_over_nothing_ends(fails):
    ended = threading.Event()
    with contextlib.suppress(RuntimeError), bounded_start(600.0, ended.set):
        (watch,) = watches()
        if fails:
            raise RuntimeError("no memory")
    watch.join(WAIT_S)
    assert not watch.is_alive()
    assert not ended.is_set()


def test_the_process_ends_with_its_children():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "engine.start_timeout_s" in done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(WAIT_S)
