"""The launcher's own process. That it starts and stops a real cluster is an engine test's matter."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil


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


def test_an_orphan_is_ended_with_its_launcher() -> None:
    """As HAProxy does it: the process that started it is gone, and it is in a session of its own."""
    code = (
        "import subprocess, sys, time\n"
        "from app.serving import launch\n"
        "launch._adopt_orphans()\n"
        'sleep = \'import subprocess; print(subprocess.Popen(["sleep", "600"],\''
        "        ' start_new_session=True, stdout=subprocess.DEVNULL).pid)'\n"
        "pid = subprocess.run([sys.executable, '-c', sleep], stdout=subprocess.PIPE).stdout.decode()\n"
        "launch._end_descendants()\n"
        "print(pid)\n"
    )
    started_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not psutil.pid_exists(int(done.stdout))
    assert time.monotonic() - started_s < 30
