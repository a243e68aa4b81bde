"""Servers: each is started as its user would, and ended with all it started."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

import yaml

from app.config_file import load_applications
from app.descendants import adopt_orphans, descendants, end_descendants
from app.engine.arguments import environment, vllm_arguments
from app.engine.models import prepare

START_TIMEOUT_S = 600.0
# Linux shares processors between sessions where this is 1. With kernel 6.18 a load client waited up to 18 s
# for a processor while servers of another session were busy: such figures are about the kernel.
AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
STOP_TIMEOUT_S = 90.0
KILL_TIMEOUT_S = 30.0
POLL_S = 0.05
# Of gateways, for each protocol: more than any benchmark or test starts.
INGRESS_PORTS = 100


class StartError(RuntimeError):
    """The server has ended, or does not answer in time; the message ends with its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers; `start_s` from the start of its first process to its first 200.

    `pid` is the root of all its processes, `output` what that one has written; both are there as long as it.
    """

    url: str
    start_s: float
    pid: int
    output: Path


# What a benchmark adds to a server's environment.
NOTHING: Mapping[str, str] = {}


@contextlib.contextmanager
def bare_vllm(
    config: Path, variables: Mapping[str, str] = NOTHING, extra: Sequence[str] = ()
) -> Iterator[Server]:
    """vLLM's own OpenAI server with the arguments that the application gives its engine, then `extra`."""
    (application,) = load_applications(config)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    arguments = [*vllm_arguments(application.args, prepare(application.args.model.source)), *extra]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", f"--port={port}", *arguments]
    given = {**environment(application.args), **variables}
    with _started(command, given, url, lambda: _answers(f"{url}/health")) as server:
        yield server


@contextlib.contextmanager
def ours(
    config: Path, variables: Mapping[str, str] = NOTHING, options: Sequence[str] = ()
) -> Iterator[Server]:
    """What `scripts/serve CONFIG` runs once everything is installed, Ray included; `options` are its own."""
    port, ray_port, dashboard = free_ports(3)
    url = f"http://127.0.0.1:{port}"
    document = yaml.safe_load(config.read_text())
    document["http_options"]["port"] = port
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "app.serving.launch", str(file)]
        command += ["--port", str(ray_port), "--dashboard-port", str(dashboard), *options]
        given = {**serve_ports(), **variables}
        with _started(command, given, url, lambda: _answers(f"{url}/ready")) as server:
            yield server


@contextlib.contextmanager
def bare_vllm_beside_ours(
    config: Path, variables: Mapping[str, str] = NOTHING, extra: Sequence[str] = ()
) -> Iterator[Server]:
    """Bare vLLM on a machine where an application of ours runs that nobody asks."""
    with ours(config, variables), bare_vllm(config, variables, extra) as server:
        yield server


@contextlib.contextmanager
def ray_serve_llm(config: Path, variables: Mapping[str, str] = NOTHING) -> Iterator[Server]:
    """Ray's own application for language models, its engine given the arguments of ours."""
    (application,) = load_applications(config)
    (port,) = free_ports(1)
    given = {**environment(application.args), **serve_ports(), **variables}
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready"
        command = [sys.executable, "-m", "benchmarks.ray_serve_llm", str(config)]
        command += [f"--port={port}", f"--ready={ready}"]
        with _started(command, given, f"http://127.0.0.1:{port}", ready.exists) as server:
            yield server


def serve_ports() -> dict[str, str]:
    """Ports for Serve's parts that another Serve on this machine does not hold."""
    metrics, stats, http = free_ports(3)
    # The one range after the other: they may not overlap.
    grpc = http + INGRESS_PORTS
    return {
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http + INGRESS_PORTS - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc + INGRESS_PORTS - 1),
    }


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def _started(
    command: list[str], variables: Mapping[str, str], url: str, ready: Callable[[], bool]
) -> Iterator[Server]:
    _warn_of_autogroups()
    # Of what outlives the server's first process this one becomes the parent.
    adopt_orphans()
    # Else multiprocessing starts its tracker later, and it would look like the server's.
    resource_tracker.ensure_running()
    others = descendants()
    started_s = time.monotonic()
    # What is killed leaves vLLM's sockets: they go with the folder.
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "output").open("w+b") as log:
        given = {**os.environ, "VLLM_RPC_BASE_PATH": folder, **variables}
        # Its first process too: daemons whose parents are gone stay in its tree.
        process = subprocess.Popen(command, env=given, stdout=log, stderr=log, preexec_fn=adopt_orphans)
        try:
            while not ready():
                if process.poll() is not None or time.monotonic() - started_s > START_TIMEOUT_S:
                    log.seek(0)
                    raise StartError(
                        f"{command[2]} did not start:\n{log.read()[-4000:].decode(errors='replace')}"
                    )
                time.sleep(POLL_S)
            yield Server(url, time.monotonic() - started_s, process.pid, Path(log.name))
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            # What was not there before is its, or a second node's that had joined it.
            end_descendants(signal.SIGKILL, KILL_TIMEOUT_S, spared=others)


@functools.cache
def _warn_of_autogroups() -> None:
    if AUTOGROUP.is_file() and AUTOGROUP.read_text().strip() == "1":
        advice = "set kernel.sched_autogroup_enabled=0 for figures that mean something"
        print(f"{AUTOGROUP} is 1, clients may be starved: {advice}", file=sys.stderr)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
