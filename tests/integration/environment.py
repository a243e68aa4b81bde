"""The environment that Ray and Serve read when they are imported: set it before they are."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from app.serving.launch_plan import environment
from benchmarks.servers import free_ports

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
    haproxy_metrics, haproxy_stats, ingress_http, ingress_grpc = free_ports(4)
    return environment(os.environ, str(Path(sys.executable).parent), token="") | {
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ingress_http),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ingress_http + 100),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(ingress_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(ingress_grpc + 100),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(haproxy_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(haproxy_stats),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(CLIENT_TIMEOUT_S),
    }
