"""Whatever a server leaves behind is ended with it, however it ended itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.documented import REPOSITORY

# A daemon whose parents are gone; the server ends by itself, or waits for its SIGTERM and starts another.
DAEMON = "import subprocess, sys, time\nsleep = [sys.executable, '-c', 'import time; time.sleep(300)']\n"
DAEMON += "def start(): print(subprocess.Popen(sleep, start_new_session=True).pid, flush=True)\n"
ENDS = f"{DAEMON}start()\n"
STARTS_ANOTHER = f"""{DAEMON}
import signal
signal.signal(signal.SIGTERM, lambda *_: (start(), sys.exit()))
start()
while True: time.sleep(0.1)
"""
LEAVES_A_SOCKET = """
import os, socket, uuid
socket.socket(socket.AF_UNIX).bind(f"{os.environ['VLLM_RPC_BASE_PATH']}/{uuid.uuid4()}")
print(os.environ["VLLM_RPC_BASE_PATH"])
"""
# In a process of its own, which becomes the parent of orphans and stays so.
HOLDER = """
import sys, time
from benchmarks.servers import _started
with _started([sys.executable, "-c", sys.argv[1]], {}, "", lambda: True) as server:
    deadline_s = time.monotonic() + 20
    while not server.output.read_text() and time.monotonic() < deadline_s: time.sleep(0.05)
    time.sleep(0.5)
    # Of a file that is gone with the server; written until then.
    output = server.output.open()
print(output.read())
"""
FAILS = """
import sys
from benchmarks.servers import StartError, _started
try:
    with _started([sys.executable, "-c", "print('\\u00e9' * 3000)"], {}, "", lambda: False): pass
except StartError as error: print(str(error)[:40])
"""


def output_of(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("server", "daemons"), [(ENDS, 1), (STARTS_ANOTHER, 2)])
def test_nothing_is_left_of_a_server(server: str, daemons: int):
    pids = [int(line) for line in output_of(HOLDER, server).split()]
    assert len(pids) == daemons
    assert not any(map(psutil.pid_exists, pids))


def test_sockets_of_what_is_killed_go_with_the_server():
    folder = output_of(HOLDER, LEAVES_A_SOCKET).strip()
    assert Path(folder).parent.is_dir()
    assert not Path(folder).exists()


def test_vllm_puts_its_sockets_where_it_is_told():
    from vllm.utils.network_utils import get_open_zmq_ipc_path

    told = os.environ["VLLM_RPC_BASE_PATH"]
    assert told != tempfile.gettempdir()
    assert get_open_zmq_ipc_path().startswith(f"ipc://{told}/")


def test_a_log_that_is_cut_within_a_character_is_shown():
    assert "did not start" in output_of(FAILS)
