"""The main job as a user does it: `scripts/serve`'s launcher, a real model, the `openai` client."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest
import yaml

from benchmarks.servers import free_ports
from tests.documented import documented, documented_python
from tests.integration.cluster import READY_TIMEOUT_S, REPOSITORY, wait_until
from tests.integration.environment import server_environment
from tests.integration.validated import assert_complete, validate

pytestmark = pytest.mark.engine

MODEL = "smollm2-135m-instruct"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@dataclass(frozen=True)
class Served:
    """Where the application answers, and the environment in which another process finds its cluster."""

    url: str
    config: Path
    exports: dict[str, str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    """The launcher with the default configuration, on ports of its own; gone without a trace after it."""
    http, ray_port, dashboard = free_ports(3)
    folder = tmp_path_factory.mktemp("launch")
    document = yaml.safe_load((REPOSITORY / "serve_configs/smollm2-cpu.yaml").read_text())
    document["http_options"]["port"] = http
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(document))
    environment = server_environment()
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "app.serving.launch", str(config)]
    command += ["--port", str(ray_port), "--dashboard-port", str(dashboard)]
    log = folder / "launch.log"
    with log.open("w") as output:
        launcher = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(
            lambda: launcher.poll() is not None or "Ready." in log.read_text(), READY_TIMEOUT_S, "ready"
        )
        assert launcher.poll() is None, log.read_text()
        yield Served(f"http://127.0.0.1:{http}/v1", config, _exports(log.read_text()))
        family = psutil.Process(launcher.pid).children(recursive=True)
        launcher.send_signal(signal.SIGTERM)
        launcher.wait(timeout=90)
        assert [process for process in family if process.is_running()] == [], log.read_text()
        assert not _file_of_exports(log.read_text()).parent.exists()
    finally:
        _end(launcher)


def _exports(log: str) -> dict[str, str]:
    lines = _file_of_exports(log).read_text().splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def _file_of_exports(log: str) -> Path:
    """What the launcher tells other shells to source."""
    found = re.search(r"source (\S+)", log)
    assert found is not None, log
    return Path(found[1])


def _end(launcher: subprocess.Popen) -> None:
    if launcher.poll() is None:
        for process in psutil.Process(launcher.pid).children(recursive=True):
            process.kill()
        os.kill(launcher.pid, signal.SIGKILL)


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=served.url, api_key="unused", timeout=120)


def test_the_capital_of_france(client: openai.OpenAI):
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=24)
    assert "Paris" in (answer.choices[0].message.content or "")


def test_the_capital_of_france_as_a_stream(client: openai.OpenAI):
    stream = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_tokens=24, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "Paris" in "".join(pieces)
    assert len(pieces) > 3


def test_the_readmes_curl(served: Served):
    command = documented("README.md", "curl ").replace("http://127.0.0.1:8000/v1", served.url)
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True)
    assert "Paris" in json.loads(answer.stdout)["choices"][0]["message"]["content"]


def test_the_readmes_stream(served: Served, capsys: pytest.CaptureFixture[str]):
    code = documented_python("README.md", "openai.OpenAI(")
    exec(code.replace("http://127.0.0.1:8000/v1", served.url), {})
    assert "Paris" in capsys.readouterr().out


def test_the_readmes_handle(served: Served):
    command = [sys.executable, "-c", documented_python("README.md", "serve.get_app_handle")]
    environment = os.environ | served.exports
    run = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert "400 invalid_value prompt" in run.stdout


def test_validate_reports_on_every_promise(served: Served, tmp_path: Path):
    run = validate(served.config, tmp_path)
    assert_complete(run)
    # One rank has nothing to be balanced with.
    assert run.not_measurable == ["load_imbalance", "memory_imbalance"]
    assert run.verdicts["requests_per_s"]["measured"] > 0
    page = run.page.read_text()
    assert page.count("<svg") == 4
    assert "http://www.w3.org/2000/svg" in page
    assert "<script" not in page


def test_the_notebook_runs(served: Served):
    command = [sys.executable, "-m", "pytest", "--nbmake", "notebooks/talk_by_handle.ipynb", "-q"]
    command += ["-p", "no:cacheprovider", "--nbmake-timeout=300"]
    run = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | served.exports, capture_output=True, text=True, timeout=400
    )
    assert run.returncode == 0, run.stdout
