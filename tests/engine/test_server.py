"""What an engine's server must leave alone in its process, and where it listens."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from app.config import ApplicationConfig
from app.engine import server
from app.engine.arguments import environment
from tests.fakes import soon

ROOT = Path(__file__).parents[2]
CONFIG = ApplicationConfig.model_validate(
    {
        "model": {"name": "m", "source": "s"},
        "engine": {"device": "cpu", "max_model_len": 64},
        "open_without_keys": True,
    }
)
# A process with a log, as a Serve replica has one, that makes the server.
PROGRAM = """
import logging.handlers
handler = logging.handlers.MemoryHandler(1, target=logging.NullHandler())
from app.engine.server import _http_server
_http_server(None)
assert handler.target is not None, "closed"
"""


def test_the_handlers_of_other_loggers_stay_open():
    """Serve's own log goes through such a handler; its controller gives up a replica that has lost it."""
    given = {**os.environ, **environment(CONFIG), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=given, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


class Listening:
    """In the place of uvicorn."""

    async def serve(self, sockets: list[socket.socket]) -> None:
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_it_listens_on_nodes_of_both_families(monkeypatch, host):
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    monkeypatch.setattr(server, "_http_server", lambda app: Listening())
    engine = server.EngineServer(None, None, None, host, stall_s=1.0, reader_stall_s=1.0)
    _, writer = await soon(asyncio.open_connection(host, engine.port))
    writer.close()
    engine._socket.close()
