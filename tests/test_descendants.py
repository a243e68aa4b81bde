"""What a process has started ends with it, orphans too, and what is spared does not."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil

from app.descendants import descendants
from tests.documented import REPOSITORY

# As HAProxy does it: who started them is gone, and each is in a session of its own. The second is deaf.
DAEMONS = """
setsid sh -c 'echo $$; exec sleep 600 >/dev/null' &
setsid sh -c 'trap "" TERM; echo $$; exec sleep 600 >/dev/null' &
"""
# In a process of its own, which becomes the parent of orphans and stays so.
PROGRAM = """
import json, signal, subprocess, sys
from app.descendants import adopt_orphans, descendants, end_descendants
adopt_orphans()
other = subprocess.Popen(["sleep", "600"])
spared = descendants()
subprocess.run(["sh", "-c", sys.argv[1]], stdout=subprocess.PIPE)
started = [one.pid for one in descendants() if one not in spared]
deaf = [one.pid for one in end_descendants(signal.SIGTERM, 1.0, spared)]
left = end_descendants(signal.SIGKILL, 30.0, spared)
print(json.dumps([started, deaf, left, other.poll()]))
end_descendants(signal.SIGKILL, 30.0)
"""


def test_all_that_is_not_spared_is_ended() -> None:
    command = [sys.executable, "-c", PROGRAM, DAEMONS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    started, deaf, left, other = json.loads(done.stdout)
    assert len(started) == 2
    assert len(deaf) == 1
    assert deaf[0] in started
    assert left == []
    assert other is None
    assert not any(map(psutil.pid_exists, started))


def test_a_process_that_has_ended_has_none() -> None:
    with subprocess.Popen(["true"]) as process:
        ended = psutil.Process(process.pid)
    assert descendants(ended) == []
