"""CPU time of processes: of a server's, its engine's apart, and of threads in a window."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class ThreadsCpu:
    """CPU seconds so far by thread, and when they were read (`time.perf_counter`)."""

    at_s: float
    spent_s: Mapping[int, float]


def threads_cpu(processes: Iterable[psutil.Process]) -> ThreadsCpu:
    """Raises psutil.NoSuchProcess for one that has ended."""
    at_s = time.perf_counter()
    threads = [thread for process in processes for thread in process.threads()]
    return ThreadsCpu(at_s, {one.id: one.user_time + one.system_time for one in threads})


def spent_in(window_s: float, before: ThreadsCpu, after: ThreadsCpu) -> list[float]:
    """CPU seconds of each thread in a window of that length: the readings are never quite as far apart."""
    share = window_s / (after.at_s - before.at_s)
    return [share * (spent_s - before.spent_s.get(one, 0.0)) for one, spent_s in after.spent_s.items()]
