"""A second Ray node on this machine, started again whenever it has died, as a machine's init would."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from app.serving.launch_plan import environment
from benchmarks.chaos.parts import Processes
from benchmarks.servers import free_ports, serve_ports

PAUSE_S = 1.0
END_TIMEOUT_S = 10.0


class SecondNode:
    """`variables` and `options` are for the server that it joins; it tries until that has a head."""

    def __init__(self, cpus: int, gpus: int, head_cpus: int) -> None:
        (port,) = free_ports(1)
        bin_folder = str(Path(sys.executable).parent)
        self.variables: Mapping[str, str] = environment(
            {**os.environ, **serve_ports()}, bin_folder, secrets.token_hex(32)
        )
        # The later option counts: the head has room for its own engines only.
        self.options = (f"--port={port}", f"--num-cpus={head_cpus}")
        self._command = [f"{bin_folder}/ray", "start", f"--address=127.0.0.1:{port}", "--block"]
        self._command += [f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--disable-usage-stats"]
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()

    @contextlib.contextmanager
    def kept(self) -> Iterator[Processes]:
        """Its processes, for as long as the block."""
        keeping = threading.Thread(target=self._keep, daemon=True)
        keeping.start()
        try:
            yield self.processes
        finally:
            self._ended.set()
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    process.kill()
            keeping.join(END_TIMEOUT_S)

    def processes(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._process is not None:
                root = psutil.Process(self._process.pid)
                return [*root.children(recursive=True), root]
        return []

    def _keep(self) -> None:
        while not self._ended.wait(PAUSE_S):
            self._process = subprocess.Popen(
                self._command,
                env=dict(self.variables),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            self._process.wait()
