"""The systems that are measured: each is started as its user would, and ended with all it started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from app.config_file import load_applications
from app.engine.arguments import environment, vllm_arguments
from app.engine.models import prepare

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 90.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers; `start_s` from the start of its first process to its first 200."""

    url: str
    start_s: float


@contextlib.contextmanager
def bare_vllm(config: Path) -> Iterator[Server]:
    """vLLM's own OpenAI server with the arguments that the application gives its engine."""
    (application,) = load_applications(config)
    (port,) = free_ports(1)
    arguments = vllm_arguments(application.args, prepare(application.args.model.source))
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--port={port}", *arguments]
    with _started(command, environment(application.args), f"http://127.0.0.1:{port}", "/health") as server:
        yield server


@contextlib.contextmanager
def ours(config: Path) -> Iterator[Server]:
    """What `scripts/serve CONFIG` runs once everything is installed, Ray included."""
    port, ray_port, dashboard, metrics, stats = free_ports(5)
    document = yaml.safe_load(config.read_text())
    document["http_options"]["port"] = port
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "app.serving.launch", str(file)]
        command += ["--port", str(ray_port), "--dashboard-port", str(dashboard)]
        ports = {"RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics), "RAY_SERVE_HAPROXY_STATS_PORT": str(stats)}
        with _started(command, ports, f"http://127.0.0.1:{port}", "/ready") as server:
            yield server


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _started(command: list[str], variables: dict[str, str], url: str, path: str) -> Iterator[Server]:
    started_s = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log)
        try:
            while not _answers(url + path):
                if process.poll() is not None or time.monotonic() - started_s > START_TIMEOUT_S:
                    log.seek(0)
                    raise RuntimeError(f"{command[2]} did not start:\n{log.read()[-4000:].decode()}")
                time.sleep(POLL_S)
            yield Server(url, time.monotonic() - started_s)
        finally:
            _end(process)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    for one in [*family, process]:
        with contextlib.suppress(psutil.Error):
            one.kill()
