"""What an engine's server must leave alone in its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from app.config import ApplicationConfig
from app.engine.arguments import environment

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
