"""`python -m app.serving.launch CONFIG`: Ray, the application and all their processes, from start to end.

What `serve run CONFIG` leaves to its user: the model, the environment, a Ray with the right resources, a
word when it is ready, and no process left behind. With RAY_ADDRESS set it starts no Ray and ends none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NoReturn

import psutil

from app.config import ApplicationConfig
from app.config_file import ConfigFileError, HttpOptions, ServeFile, load_file
from app.descendants import adopt_orphans, descendants, end_descendants
from app.engine.models import prepare
from app.hosts import family
from app.serving.launch_plan import (
    SHOWN_LINES,
    Resources,
    all_running,
    deployed_at,
    environment,
    failure,
    hindrances,
    important,
    launched,
    resources,
    starting,
)

BAD_INPUT = 2
FAILED = 1

PROGRESS_INTERVAL_S = 5.0
POLL_INTERVAL_S = 0.5
# While it serves: a look at all processes of the machine costs some milliseconds.
WATCH_INTERVAL_S = 2.0
REQUEST_TIMEOUT_S = 5.0
RAY_START_TIMEOUT_S = 120.0
# Unless it is stated: who stops a server by hand does not wait for minutes.
DRAIN_S = 30.0
# Without applications Serve has nothing to wait for.
SHUTDOWN_TIMEOUT_S = 30.0
# Without Serve nothing of Ray is worth waiting for, and some of it waits for a part that has ended already.
TERMINATE_TIMEOUT_S = 3.0
KILL_TIMEOUT_S = 10.0

_RAY_CORE = ("gcs_server", "raylet")
# To our own processes: a proxy of the environment's is for other machines.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class LaunchError(Exception):
    """It can't go on; `lines` are for the user."""

    def __init__(self, *lines: str, status: int = FAILED) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines
        self.status = status


class Launcher:
    """One run: `start`, `watch`, and `stop` whatever became of the other two."""

    def __init__(
        self,
        config: Path,
        port: int,
        dashboard_port: int,
        ray_options: Sequence[str],
        drain_s: float = DRAIN_S,
    ) -> None:
        """`drain_s`: how long open streams have to end when it is stopped."""
        self._config = config
        self._drain_s = drain_s
        self._port = port
        self._ray_options = ray_options
        self._started_s = time.monotonic()
        # Made where there is something to log.
        self._folder: Path
        self._removal = contextlib.ExitStack()
        self._bin = Path(sys.executable).parent
        self._environment = environment(os.environ, str(self._bin), secrets.token_hex(32))
        self._own_ray = "RAY_ADDRESS" not in os.environ
        self._dashboard = f"http://127.0.0.1:{dashboard_port}"
        if self._own_ray:
            self._ray_options = [*ray_options, f"--port={port}", f"--dashboard-port={dashboard_port}"]
        else:
            self._dashboard = os.environ.get("RAY_DASHBOARD_ADDRESS", self._dashboard)
        self._serve: subprocess.Popen[bytes] | None = None
        # Those that are up.
        self._applications: list[str] = []
        self._log_read = 0

    def start(self) -> None:
        """Everything up to the first answer of `/ready`. Raises LaunchError."""
        serve_file = _read(self._config)
        configs = [application.args for application in serve_file.applications]
        urls = [url for url in map(serve_file.url, serve_file.applications) if url is not None]
        if not urls:
            raise LaunchError("applications: none has a route_prefix to answer at", status=BAD_INPUT)
        if self._own_ray:
            _require_free(serve_file.http_options)
        self._folder = Path(tempfile.mkdtemp(prefix="promiseserve-"))
        self._removal.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._say(f"Configuration {self._config} is valid; logs are in {self._folder}")
        for config in configs:
            self._prepare(config)
        if self._own_ray:
            self._start_ray(resources(configs, os.cpu_count() or 1))
        names = [application.name for application in serve_file.applications]
        before = {} if self._own_ray else deployed_at(self._details() or {})
        self._start_serve()
        self._await_ready(urls, names, before)
        self._applications = names
        self._say("Ready. Try:")
        _print_example(urls[0], configs[0])

    def watch(self) -> NoReturn:
        """Shows important lines of the log until it ends. Raises LaunchError then."""
        while True:
            self._look_after_serve()
            time.sleep(WATCH_INTERVAL_S)

    def stop(self, keep_logs: bool) -> None:
        """Ends what was started: Serve in order, then whatever is left of our processes."""
        try:
            if self._serve is not None and self._serve.poll() is None and not self._ended_ray():
                self._withdraw()
                self._stop_serve(self._serve)
        finally:
            # With a Ray of our own that is all of Ray, and HAProxy, which outlives it.
            started = descendants()
            end_descendants(signal.SIGTERM, TERMINATE_TIMEOUT_S)
            left = end_descendants(signal.SIGKILL, KILL_TIMEOUT_S)
            if not keep_logs:
                self._removal.close()
            if started:
                names = [f"{process.pid} ({process.name()})" for process in left]
                self._say(f"Stopped; processes left: {', '.join(names) or 'none'}")

    def _stop_serve(self, serve: subprocess.Popen[bytes]) -> None:
        """It shuts Serve down in the cluster that it is connected to."""
        self._say("Stopping Serve")
        serve.send_signal(signal.SIGINT)
        try:
            serve.wait(SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._say(f"Serve has not stopped in {SHUTDOWN_TIMEOUT_S:.0f} s")

    def _withdraw(self) -> None:
        """While HAProxy still stands: what waits is refused, streams end."""
        if not self._applications:
            return
        self._say(f"Refusing new requests; open streams have {self._drain_s:.0f} s to finish")
        log, names = self._folder / "withdraw.log", self._applications
        withdrawing = self._spawn(log, "python", "-m", "app.serving.withdraw", *names)
        try:
            withdrawing.wait(self._drain_s)
        except subprocess.TimeoutExpired:
            self._say("Streams have not ended: they are cut")
            withdrawing.kill()

    def _prepare(self, config: ApplicationConfig) -> None:
        try:
            path = prepare(config.model.source, progress=self._say)
        except (ValueError, FileNotFoundError) as error:
            raise LaunchError(str(error), status=BAD_INPUT) from error
        self._say(f"Model {config.model.name}: {path}")

    def _start_ray(self, machine: Resources) -> None:
        has = [f"--num-cpus={machine.cpus}"]
        if machine.gpus is not None:
            has.append(f"--num-gpus={machine.gpus}")
        if machine.custom:
            has.append(f"--resources={json.dumps(machine.custom)}")
        self._say(f"Starting Ray: {' '.join(has)}")
        options = [*has, "--dashboard-host=127.0.0.1", "--disable-usage-stats"]
        log = self._folder / "ray.log"
        ray = self._spawn(log, "ray", "start", "--head", *options, *self._ray_options)
        deadline_s = time.monotonic() + RAY_START_TIMEOUT_S
        ticks = Ticks()
        while ray.poll() is None and time.monotonic() < deadline_s:
            time.sleep(POLL_INTERVAL_S)
            if ticks.due():
                self._say("Waiting for Ray")
        if ray.poll() != 0:
            hint = "Ray has not started. To use one that runs, set RAY_ADDRESS."
            raise LaunchError(*_lines(log)[-SHOWN_LINES:], hint)
        self._environment["RAY_ADDRESS"] = f"127.0.0.1:{self._port}"
        self._save_token()

    def _save_token(self) -> None:
        """For `serve status` and `placement show --address` in another shell."""
        token = self._environment.get("RAY_AUTH_TOKEN")
        exports = [f"RAY_ADDRESS=127.0.0.1:{self._port}", f"RAY_DASHBOARD_ADDRESS={self._dashboard}"]
        if token is not None:
            exports += ["RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={token}"]
        # The folder is for this user only.
        file = self._folder / "env"
        file.write_text("".join(f"export {line}\n" for line in exports))
        self._say(f"Ray runs. For other shells: source {file}")

    def _start_serve(self) -> None:
        self._say("Starting the application")
        self._serve = self._spawn(self._log, "serve", "run", str(self._config))

    def _spawn(self, log: Path, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """In a session of its own: a Ctrl-C is for us, to stop them in order."""
        with log.open("wb") as output:
            return subprocess.Popen(
                [str(self._bin / program), *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _await_ready(self, urls: Sequence[str], names: Sequence[str], before: Mapping[str, float]) -> None:
        ticks = Ticks()
        said: set[str] = set()
        while True:
            self._look_after_serve()
            details = self._details()
            applications = launched(details or {}, names, before)
            if reason := failure(applications):
                raise LaunchError(*reason)
            # Serve has to say so too: what answers at `/ready` may be another application of this machine.
            unknown = details is None and not self._own_ray
            if (unknown or all_running(applications, names)) and all(
                _answers(f"{url}/ready") for url in urls
            ):
                return
            for line in hindrances(applications):
                if line not in said:
                    said.add(line)
                    self._say(line)
            if ticks.due():
                self._say(f"Starting: {starting(applications) or 'Serve'}")
            time.sleep(POLL_INTERVAL_S)

    def _look_after_serve(self) -> None:
        for line in important(self._new_lines()):
            print(f"  {line}", flush=True)
        if self._serve is not None and self._serve.poll() is not None:
            raise LaunchError(*_lines(self._log)[-SHOWN_LINES:], "`serve run` has ended.")
        if ended := self._ended_ray():
            raise LaunchError(f"Ray has ended: {', '.join(ended)}")

    def _ended_ray(self) -> list[str]:
        """Without these Serve would wait for ever. As our children they stay visible until we look."""
        if not self._own_ray:
            return []
        children = ((child.name(), child.status()) for child in psutil.Process().children())
        return [name for name, status in children if name in _RAY_CORE and status == psutil.STATUS_ZOMBIE]

    @property
    def _log(self) -> Path:
        return self._folder / "serve.log"

    def _new_lines(self) -> list[str]:
        try:
            with self._log.open("rb") as file:
                file.seek(self._log_read)
                # A line still being written is for the next time.
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:  # Somebody cleans up old files; what they were of goes on.
            return []
        self._log_read += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines()

    def _details(self) -> dict[str, Any] | None:
        """Serve's state from Ray's dashboard; None where there is no answer."""
        token = self._environment.get("RAY_AUTH_TOKEN")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{self._dashboard}/api/serve/applications/", headers=headers)
        try:
            with _direct.open(request, timeout=REQUEST_TIMEOUT_S) as response:
                details = json.load(response)
        except (OSError, ValueError, HTTPException):
            return None
        return details if isinstance(details, dict) else None

    def _say(self, line: str) -> None:
        print(f"{time.monotonic() - self._started_s:6.1f} s  {line}", flush=True)


class Ticks:
    """True once an interval."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    def due(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._last_s < PROGRESS_INTERVAL_S:
            return False
        self._last_s = now_s
        return True


def _read(file: Path) -> ServeFile:
    try:
        return load_file(file)
    except ConfigFileError as error:
        raise LaunchError(*error.lines, status=BAD_INPUT) from error


def _require_free(http: HttpOptions) -> None:
    try:
        with socket.socket(family(http.host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((http.host, http.port))
    except OSError as error:
        raise LaunchError(f"http_options.port: {http.port}: {error.strerror} ({http.host})") from error


def _answers(url: str) -> bool:
    try:
        with _direct.open(url, timeout=REQUEST_TIMEOUT_S) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _print_example(url: str, config: ApplicationConfig) -> None:
    key = ""
    if not config.is_open:
        print("with one of your keys in PROMISESERVE_API_KEY:", flush=True)
        key = ' -H "authorization: Bearer $PROMISESERVE_API_KEY"'
    print(f"{os.path.relpath(sys.executable)} -m app chat --url {url}", flush=True)
    body = {"model": config.model.name, "messages": [{"role": "user", "content": "Hello!"}], "stream": True}
    print(f"curl -N {url}/v1/chat/completions -H 'content-type: application/json'{key} \\", flush=True)
    print(f"  -d '{json.dumps(body)}'", flush=True)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until it is stopped; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="app.serving.launch",
        description="Serve a configuration until Ctrl-C.",
        epilog="Other options are handed to `ray start`.",
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="a file in Ray Serve's schema")
    parser.add_argument("--port", type=int, default=6379, help="of Ray's head")
    parser.add_argument("--dashboard-port", type=int, default=8265)
    parser.add_argument(
        "--drain-s",
        type=float,
        default=DRAIN_S,
        metavar="SECONDS",
        help="for open streams to end in when it is stopped (%(default)g), replicas.drain_s at most",
    )
    options, ray_options = parser.parse_known_args(arguments)
    # Ray's daemons, and HAProxy.
    adopt_orphans()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        signal.signal(number, _interrupt)
    launcher = Launcher(options.config, options.port, options.dashboard_port, ray_options, options.drain_s)
    status = FAILED
    try:
        launcher.start()
        launcher.watch()
    except KeyboardInterrupt:
        status = 0
    except LaunchError as error:
        print("\n".join(error.lines), file=sys.stderr, flush=True)
        status = error.status
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        # They tell why it has failed; before that there are none.
        launcher.stop(keep_logs=status == FAILED)
    return status


if __name__ == "__main__":
    sys.exit(main())
