"""Starts the application of a configuration for as long as it is measured: `scripts/serve`'s launcher."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

# What the launcher says when the application answers.
READY = "Ready."
POLL_S = 0.5
# Serve drains what runs; by then nothing does.
STOP_TIMEOUT_S = 90.0
# As shells count a command that SIGTERM ended.
TERMINATED = 143


@contextlib.contextmanager
def launched(config: Path) -> Iterator[None]:
    """Ready inside the block, gone after it; its words go to stderr. Raises ConnectionError where it ends."""
    command = [sys.executable, "-m", "app.serving.launch", str(config)]
    # Whoever ends us means what we have started, too.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ready = threading.Event()
    threading.Thread(target=_pass_on, args=(process, ready), daemon=True).start()
    try:
        while not ready.wait(POLL_S):
            if process.poll() is not None:
                raise ConnectionError(f"{config}: the application has not started")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        process.kill()
        signal.signal(signal.SIGTERM, before)


def _pass_on(process: subprocess.Popen[str], ready: threading.Event) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", file=sys.stderr, flush=True)
        if READY in line:
            ready.set()
