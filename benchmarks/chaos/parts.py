"""The parts of a running application as processes, and what can be done to them."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psutil

# What a part's process is called, in its title or, where it has none, by its name.
TITLES = {
    "engine-core": "VLLM::EngineCore",
    "engine-worker": "RayWorkerProc",
    "engine-replica": "ServeReplica:llm:Engine",
    "gateway": "ServeReplica:llm:Gateway",
    "scheduler": "ServeReplica:llm:Scheduler",
    "controller": "ray::ServeController",
    "proxy": "haproxy -db",
    "raylet": "raylet/raylet",
}
SIGNALS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP}

# All processes of the application and of Ray below it.
Processes = Callable[[], list[psutil.Process]]


def tree(pid: int) -> Processes:
    """Those of a server whose first process adopts its orphans (benchmarks/servers.py)."""
    return lambda: psutil.Process(pid).children(recursive=True)


def title(process: psutil.Process) -> str:
    """Empty for a process that has ended."""
    with contextlib.suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE:
            return " ".join(process.cmdline()) or process.name()
    return ""


def title_of_parent(process: psutil.Process) -> str:
    """Empty where it has none, or either has ended."""
    with contextlib.suppress(psutil.Error):
        parent = process.parent()
        return title(parent) if parent is not None else ""
    return ""


def _cpu_s(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def named(processes: Sequence[psutil.Process], part: str) -> list[psutil.Process]:
    return [process for process in processes if TITLES[part] in title(process)]


@dataclass
class Fault:
    """One signal to one process of a part; `family` is what must not outlive it."""

    part: str
    how: str
    victim: psutil.Process
    family: list[psutil.Process] = field(default_factory=list)

    @classmethod
    def chosen(cls, processes: Processes, part: str, how: str, random_: random.Random) -> Fault:
        """Raises LookupError when there is no such process."""
        found = sorted(named(processes(), part), key=lambda process: process.pid)
        # The head's raylet is the cluster's life: only a second node's can be spared.
        found = found[1:] if part == "raylet" else found
        if not found:
            raise LookupError(f"part: no process of {part} ({TITLES[part]!r})")
        # The scheduler that leads has worked, its spare has not.
        victim = max(found, key=_cpu_s) if part == "scheduler" else random_.choice(found)
        return cls(part, how, victim, victim.children(recursive=True))

    def apply(self) -> None:
        self.victim.send_signal(SIGNALS[self.how])

    def release(self) -> None:
        """A frozen process that nobody has ended goes on."""
        with contextlib.suppress(psutil.Error):
            self.victim.send_signal(signal.SIGCONT)

    def orphans(self) -> list[str]:
        """What is left of the family of a victim that has ended (psutil compares start times too)."""
        if title(self.victim):
            return []
        return [f"{process.pid} {name}" for process in self.family if (name := title(process))]
