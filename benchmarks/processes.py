"""CPU time of a server's processes, its engine's apart."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import psutil

# The names that vLLM gives to the processes that compute; its front end keeps another.
ENGINE_NAMES = ("VLLM::EngineCore", "VLLM::Worker")


def cpu_outside_engine_s(pid: int) -> dict[int, float]:
    """CPU seconds so far of each process under `pid`, itself included, that is not an engine's."""
    root = psutil.Process(pid)
    spent_s: dict[int, float] = {}
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if not process.name().startswith(ENGINE_NAMES):
                times = process.cpu_times()
                spent_s[process.pid] = times.user + times.system
    return spent_s


def spent_between_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """What a process has spent that ended in between is lost."""
    return sum(spent_s - before.get(pid, 0.0) for pid, spent_s in after.items())
