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
from multiprocessing.process import BaseProcess

CHECK_INTERVAL_S = 1.0


def register() -> None:
    """Entry point `vllm.general_plugins`: watch the parent in every process that vLLM has spawned."""
    parent = multiprocessing.parent_process()
    if os.environ.get("PROMISESERVE_ENGINE") != "1" or parent is None:
        return
    watch = threading.Thread(target=_end_with, args=(parent, os.getppid()), daemon=True, name="orphan-watch")
    watch.start()


def _end_with(parent: BaseProcess, parent_id: int) -> None:
    # Importing vLLM takes seconds: the parent may be dead by now, and `parent_id` whoever took its place.
    while parent.is_alive() and os.getppid() == parent_id:
        time.sleep(CHECK_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGKILL)
