"""A real Ray cluster in processes of its own, and what tests ask of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.descendants import descendants
from benchmarks.chaos.parts import title
from benchmarks.servers import free_ports
from tests.integration.environment import server_environment
from tests.integration.held import held

BIN = Path(sys.executable).parent
REPOSITORY = Path(__file__).parents[2]
# Of the tests that need a model only to answer.
MODEL = "tiny-llama"
# Starting eight workers on two cores.
READY_TIMEOUT_S = 420
IN_ENGINES = ("vllm:num_requests_running", "vllm:num_requests_waiting")


def tiny_llama(**engine: Any) -> dict[str, Any]:
    """Sections that make `smollm2-cpu.yaml` serve it; `engine` is how its engine is set beside that."""
    return {
        "model": {"name": MODEL, "source": "embedded:tiny-llama"},
        "engine": {"dtype": "float32", "cpu_kv_cache_gib": 1, **engine},
    }


def wait_until(condition, timeout_s: float, what: str, every_s: float = 0.1) -> float:
    """Seconds until the condition held; fails the test when it does not in time."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < timeout_s, f"not in {timeout_s} s: {what}"
        time.sleep(every_s)
    return time.monotonic() - started_s


def completion(**options: object) -> dict[str, object]:
    """A greedy completion that goes on to its length, as arguments of the `openai` client."""
    body = {"model": MODEL, "prompt": "hello", "max_tokens": 4, "temperature": 0.0}
    return body | {"extra_body": {"ignore_eos": True}} | options


@dataclass
class Cluster:
    """Addresses of the cluster, and the application that is deployed."""

    address: str
    dashboard: str
    agent_port: int
    http_port: int
    folder: Path
    # All processes of the cluster, orphans too, descend from it.
    root: psutil.Process
    # The configuration of the application; None while there is none.
    deployed: dict[str, Any] | None = None

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[Cluster]:
        port, dashboard, agent, http = free_ports(4)
        os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"
        start = ["start", "--head", "--num-gpus", "8", "--num-cpus", "8", f"--port={port}"]
        start += ["--node-ip-address=127.0.0.1", f"--dashboard-port={dashboard}", "--disable-usage-stats"]
        start += ["--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={agent}"]
        command = [str(BIN / "ray"), *start]
        with (
            tempfile.TemporaryDirectory(prefix="serve-test-") as folder,
            held(command, server_environment()) as root,
        ):
            try:
                ray.init(address=f"127.0.0.1:{port}", log_to_driver=False, namespace="tests")
                url = f"http://127.0.0.1:{dashboard}"
                yield cls(f"127.0.0.1:{port}", url, agent, http, Path(folder), root)
            finally:
                _leave()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def deploy(self, config: str, **changes: Any) -> None:
        """A file of serve_configs/ with changed sections; returns when the application is ready. One that is
        the same stays, another goes first."""
        document = self._document(config, changes)
        if self.deployed not in (None, document):
            self.remove()
        if self.deployed is None:
            self._apply(config, document)
        self._wait_until_ready(config)

    def update(self, config: str, **changes: Any) -> None:
        """Changes the application in its place, under load if there is any; returns when it is ready."""
        self._apply(config, self._document(config, changes))
        self._wait_until_ready(config)

    def _document(self, config: str, changes: dict[str, Any]) -> dict[str, Any]:
        document = yaml.safe_load((REPOSITORY / "serve_configs" / config).read_text())
        document["http_options"] |= {"host": "127.0.0.1", "port": self.http_port}
        arguments = document["applications"][0]["args"]
        for section, values in changes.items():
            changed = isinstance(values, dict) and isinstance(arguments.get(section), dict)
            arguments[section] = arguments[section] | values if changed else values
        return document

    def _apply(self, config: str, document: dict[str, Any]) -> None:
        self.deployed = document
        path = self.folder / config
        path.write_text(yaml.safe_dump(document))
        command = [BIN / "serve", "deploy", str(path), "-a", self.dashboard]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr[-2000:]

    def _wait_until_ready(self, config: str) -> None:
        wait_until(self.is_ready, READY_TIMEOUT_S, f"{config} ready", every_s=0.5)

    def remove(self) -> None:
        """Takes the application away and waits until its engines are gone."""
        from ray import serve

        serve.delete("llm")
        wait_until(lambda: not self.engine_processes(), 60, "engines gone")
        self.deployed = None

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        return False

    def metric(self, *names: str, **labels: str) -> float:
        """The sum of these metrics' samples over all engines."""
        text = httpx.get(f"{self.url}/metrics", timeout=10).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in names and labels.items() <= sample.labels.items()
        )

    def in_engines(self) -> float:
        """Requests that vLLM runs or holds."""
        return self.metric(*IN_ENGINES)

    def at_rest(self) -> bool:
        """Nothing runs, nothing waits."""
        return self.metric(*IN_ENGINES, "promiseserve_leases", "promiseserve_queue_depth") == 0

    def engine_processes(self) -> list[psutil.Process]:
        """Engine cores and workers, of every replica."""
        return self.processes("EngineCore", "RayWorkerProc", "VLLM::Worker")

    def processes(self, *names: str) -> list[psutil.Process]:
        """Those of this cluster, and of no other on the machine, with one of these words in their title."""
        return [process for process in self.family() if any(name in title(process) for name in names)]

    def family(self) -> list[psutil.Process]:
        """Ray's daemons and all that they have started."""
        return descendants(self.root)


def _leave() -> None:
    """Ends the application in order, and this process's connection."""
    from ray import serve

    with contextlib.suppress(Exception):
        serve.shutdown()
    with contextlib.suppress(Exception):
        ray.shutdown()
