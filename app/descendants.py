"""All that a process has started, daemons whose parents are gone too: found, and ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection

import psutil

# Between two looks for what has been started meanwhile.
LOOK_INTERVAL_S = 0.5
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Descendants whose parents are gone become this process's children. It survives exec."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(of: psutil.Process | None = None) -> list[psutil.Process]:
    """This process's, if no other is named; none of one that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return list((of or psutil.Process()).children(recursive=True))
    return []


def end_descendants(
    number: signal.Signals, timeout_s: float, spared: Collection[psutil.Process] = ()
) -> list[psutil.Process]:
    """Signals each once, by its id; returns those that are left after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    asked = set(spared)
    # A process may start another while it is asked to end.
    while (left := [one for one in descendants() if one not in spared]) and time.monotonic() < deadline_s:
        for process in [one for one in left if one not in asked]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        asked.update(left)
        psutil.wait_procs(left, timeout=LOOK_INTERVAL_S)
    return left


def kill_with_descendants() -> None:
    """Itself too, and at once: what is frozen, or waits for ever, can't end in order. Does not return."""
    for process in descendants():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    os.kill(os.getpid(), signal.SIGKILL)
