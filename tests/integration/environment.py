"""The environment that Ray and Serve read when they are imported: set it before they are."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from app.serving.launch_plan import environment
from benchmarks.servers import serve_ports

# Of a client that says nothing though it is its turn. Short, so that a test can outlast it; scripts/serve
# gives clients longer.
CLIENT_TIMEOUT_S = 5
# What tests of the integration suite let in, and what no log may hold.
HOSTILE_KEYS = {"blue": f"sk-blue-{secrets.token_hex(16)}", "red": f"sk-red-{secrets.token_hex(16)}"}


def set_environment() -> None:
    """For this process, a user's: who it is to Ray, and nothing of what servers are told."""
    for name in [name for name in os.environ if name.startswith("RAY_SERVE_")]:
        del os.environ[name]
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def server_environment() -> dict[str, str]:
    """For the cluster's processes: what `scripts/serve` sets, with HAProxy's ports our own."""
    given = environment(os.environ, str(Path(sys.executable).parent), token="")
    return given | serve_ports() | {"RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(CLIENT_TIMEOUT_S)}
