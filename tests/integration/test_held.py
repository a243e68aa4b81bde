"""Whose a process is: what a held command leaves is found under any title, and nobody else's is."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from app.descendants import descendants
from benchmarks.chaos.parts import title
from tests.integration.held import held

TITLE = "ray::ServeReplica:llm:Engine"
WITH_TITLE = f"""
import setproctitle, time
setproctitle.setproctitle({TITLE!r})
print(flush=True)
time.sleep(60)
"""
# Its parent ends once the daemon has its title, as `ray start` does.
LEAVES_A_DAEMON = f"""
import subprocess, sys
command, pipe, null = [sys.executable, "-c", {WITH_TITLE!r}], subprocess.PIPE, subprocess.DEVNULL
daemon = subprocess.Popen(command, stdout=pipe, stderr=null, start_new_session=True)
daemon.stdout.readline()
"""


def leaving() -> contextlib.AbstractContextManager[psutil.Process]:
    return held([sys.executable, "-c", LEAVES_A_DAEMON], os.environ)


@contextlib.contextmanager
def anothers() -> Iterator[psutil.Process]:
    command = [sys.executable, "-c", WITH_TITLE]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)
        process.kill()


def test_an_orphan_under_a_title_is_found_and_ended_and_anothers_is_left_alone():
    with anothers() as other:
        with leaving() as holder:
            (daemon,) = descendants(holder)
            assert title(daemon).startswith(TITLE)
            assert daemon.ppid() == holder.pid
            # What a marker in the environment would have to be read from.
            assert not daemon.environ()
        assert not daemon.is_running()
        assert title(other).startswith(TITLE)


def test_what_a_killed_daemon_leaves_is_no_zombie():
    with leaving() as holder:
        (daemon,) = descendants(holder)
        daemon.kill()
        daemon.wait(10)
        assert descendants(holder) == []


def test_a_command_that_fails_holds_nothing():
    with pytest.raises(AssertionError, match="has failed"), held(["false"], os.environ):
        pass
