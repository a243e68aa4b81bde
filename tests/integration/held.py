"""A command that leaves daemons, and a process that stays to hold them: this module, run by itself.

All that the command leaves running, and all that this starts, orphans too, descends from the holder. Nothing
else tells it from another's: Ray's workers and vLLM's write their titles over their environment, and an
orphan's parent would be init. The holder ends them when its input ends, which it does however its user ends.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping

import psutil

from app.descendants import adopt_orphans, end_descendants

COMMAND_TIMEOUT_S = 120
END_TIMEOUT_S = 30
STARTED = "started\n"


@contextlib.contextmanager
def held(command: list[str], environment: Mapping[str, str]) -> Iterator[psutil.Process]:
    """The holder, once the command has ended well; at the end nothing is left of what it holds."""
    pipe = subprocess.PIPE
    # In a session of its own, for a Ctrl-C is its user's.
    holder = [sys.executable, "-m", __name__, *command]
    with subprocess.Popen(
        holder, env=environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == STARTED, f"{command[0]} has failed"
        yield psutil.Process(process.pid)


def _hold(command: list[str]) -> None:
    adopt_orphans()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        if done.returncode:
            sys.exit(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        # Adopted children that have ended are nobody's to wait for.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        sys.stdout.write(STARTED)
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        end_descendants(signal.SIGKILL, END_TIMEOUT_S)


if __name__ == "__main__":
    _hold(sys.argv[1:])
