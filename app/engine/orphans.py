"""No engine process outlives its parent.

A replica that is killed outright can't stop its children: vLLM's engine core, and the workers below it,
would go on spinning. vLLM loads general plugins in each of its processes; this one watches the parent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

CHECK_INTERVAL_S = 1.0


def register() -> None:
    """Entry point `vllm.general_plugins`: watch the parent in every process that vLLM has spawned."""
    if os.environ.get("PROMISESERVE_ENGINE") != "1" or multiprocessing.parent_process() is None:
        return
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True, name="orphan-watch").start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGKILL)
