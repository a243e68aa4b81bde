"""A real Prometheus over the application, with the rules of deploy/prometheus/."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.servers import free_ports
from tests.integration.cluster import REPOSITORY, wait_until

DEPLOY = REPOSITORY / "deploy"
BINARY = shutil.which("prometheus")
# Names of the metrics that an expression may select.
_SELECTOR = re.compile(r"\b((?:promiseserve_|gen_ai_|vllm:|class_slo:|up\b)[\w:]*(?:\{[^}]*\})?)")


def selectors(expression: str) -> set[str]:
    """The instant selectors of an expression, with their matchers."""
    return set(_SELECTOR.findall(re.sub(r"\b(?:by|on|group_left) ?\([^)]*\)", "", expression)))


def alerts() -> dict[str, str]:
    """Expressions of deploy/prometheus/rules.yml by the alert's name."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"] if "alert" in rule}


def panels() -> dict[str, list[str]]:
    """Expressions of the dashboard by the panel's title; its rate interval spans a few scrapes."""
    dashboard = json.loads((DEPLOY / "grafana" / "promiseserve.json").read_text())
    return {
        panel["title"]: [target["expr"].replace("$__rate_interval", "30s") for target in panel["targets"]]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }


class Prometheus:
    """Scrapes and evaluates every second; alerts wait for nothing."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    @classmethod
    @contextlib.contextmanager
    def started(cls, target: str) -> Iterator[Prometheus]:
        [port] = free_ports(1)
        with tempfile.TemporaryDirectory(prefix="prometheus-test-") as name:
            folder = Path(name)
            _write(folder, target)
            options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
            listen = f"--web.listen-address=127.0.0.1:{port}"
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen([BINARY, *options, listen], stdout=log, stderr=log)
            try:
                one = cls(port)
                wait_until(one._scrapes, 30, "first scrape")
                yield one
            finally:
                process.kill()
                process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self._url}/query", params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", (expression, answer)
        return answer["data"]["result"]

    def pages(self) -> set[str]:
        """Alerts that fire and would page somebody."""
        answer = httpx.get(f"{self._url}/alerts", timeout=10).json()
        firing = [one["labels"] for one in answer["data"]["alerts"] if one["state"] == "firing"]
        return {labels["alertname"] for labels in firing if labels["severity"] == "page"}

    def _scrapes(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return bool(self.query("up == 1"))
        return False


def _write(folder: Path, target: str) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    rules = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule.pop("for", None)
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
