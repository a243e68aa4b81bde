"""What a launch needs to know: resources, environment, where clients go, and what Serve's state means.

Pure: `app/serving/launch.py` does what is decided here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.config import ApplicationConfig

SHOWN_LINES = 20
# One machine has room for all of them, and for their successors beside them.
CONTROL_REPLICAS = 1000

_IMPORTANT = re.compile(r"\b(ERROR|CRITICAL)\b|^\w*(Error|Exception)\b")


@dataclass(frozen=True)
class Resources:
    """What Ray is told that the machine has; None leaves it to Ray to look."""

    cpus: int
    gpus: int | None
    # By name: what gateways and schedulers ask for (`control_resources`).
    custom: dict[str, float] = field(default_factory=dict)


def resources(configs: Sequence[ApplicationConfig], machine_cpus: int) -> Resources:
    """Room for every replica that may be started. The GPUs of a CPU engine are logical."""
    cpus = math.ceil(sum(_amount(config, "CPU") for config in configs))
    logical = all(config.engine.device == "cpu" for config in configs)
    gpus = math.ceil(sum(_amount(config, "GPU") for config in configs)) if logical else None
    custom: dict[str, float] = {}
    for config in configs:
        for name, amount in config.control_resources.items():
            custom[name] = custom.get(name, 0.0) + CONTROL_REPLICAS * amount
    return Resources(max(machine_cpus, cpus), gpus, custom)


def _amount(config: ApplicationConfig, resource: str) -> float:
    replica = sum(bundle.get(resource, 0.0) for bundle in config.parallel.bundles)
    # Amounts are decimal fractions: thirty times 0.1 is three.
    return round(replica * config.replicas.max, 6)


def environment(given: Mapping[str, str], bin_folder: str, token: str) -> dict[str, str]:
    """The children's environment; what the user has set stays."""
    defaults = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # With it replicas call each other by gRPC, which would take the environment's `http_proxy` for them.
        "grpc_proxy": "",
        # For how long a stopping gateway waits for load balancers to notice: the one on this machine is told.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # A client that neither sends its request nor takes its answer holds a connection for this long; Serve
        # would give it an hour.
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        # HAProxy is started anew whenever a gateway comes or goes, and the old one keeps its streams for so
        # long: longer than a drain waits for them (`replicas.drain_s`). Serve's own 120 s would cut them.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "960",
        # A gateway that dies before it has answered anything: another gets the request. Nothing has been said
        # to the client, and the engine ends what its gateway has left. HAProxy repeats only what it has whole
        # (16 KiB) before it passes it on; Serve has no variable for that, but puts this one's text into
        # HAProxy's file as it is.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response\n    option http-buffer-request",
        # A frozen gateway gets nothing new after about six seconds (ten of Serve's own five), HAProxy itself
        # has a successor after three failures in a row of these (thirty seconds of Serve's own).
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "3",
        # What is frozen ends nothing in order: its clients would wait for `replicas.drain_s` more.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # The controller looks at everything ten times a second by itself, which takes 4 % of a processor.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
        # THROUGHPUT_OPTIMIZED holds a replica's log back until it has 1,000 records or an error: hours, for
        # an engine or a scheduler, and a kill loses it. That saves nothing: each record is written by itself.
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray runs workers at 15, below whatever else the machine does; here they are what it is for.
        "RAY_worker_niceness": "0",
        "PYTHONUNBUFFERED": "1",
    }
    # A running cluster has its own way to let clients in. Ray 2.60's dashboard refuses without a token.
    if "RAY_ADDRESS" not in given:
        defaults["RAY_AUTH_MODE"] = "token"
        if given.get("RAY_AUTH_MODE", "token") == "token" and "RAY_AUTH_TOKEN_PATH" not in given:
            defaults["RAY_AUTH_TOKEN"] = token
    # ray, serve and the compilers' helpers of this very installation.
    path = os.pathsep.join(filter(None, [bin_folder, given.get("PATH")]))
    return {**defaults, **given, "PATH": path}


def deployed_at(details: Mapping[str, Any]) -> dict[str, float]:
    """When each application of the dashboard's answer was deployed last, by Serve's own clock."""
    applications = details.get("applications", {})
    return {name: application["last_deployed_time_s"] for name, application in applications.items()}


def launched(
    details: Mapping[str, Any], names: Iterable[str], before: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Of the dashboard's answer the applications `names`, once Serve has them from this launch.

    `before`: what was deployed, and when. An older application of the same name says nothing of the one to
    come, nor does whatever else the cluster serves.
    """
    applications = details.get("applications", {})
    now = deployed_at(details)
    return {name: applications[name] for name in names if name in now and now[name] != before.get(name)}


def starting(applications: Mapping[str, Mapping[str, Any]]) -> str:
    """What is not there yet: `Engine UPDATING 0/1`."""
    return ", ".join(
        f"{name} {deployment['status']} {_running(deployment)}/{deployment.get('target_num_replicas', '?')}"
        for name, deployment in _waiting(applications)
    )


def hindrances(applications: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Why it is not there yet, in Serve's words, as of bundles that no node can hold."""
    return [
        f"{name}: {_ends(deployment['message'])}"
        for name, deployment in _waiting(applications)
        if deployment.get("message")
    ]


def _waiting(applications: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for application in applications.values():
        for name, deployment in application.get("deployments", {}).items():
            if deployment["status"] != "HEALTHY":
                yield name, deployment


def _ends(text: str) -> str:
    """Its first line and its last: of an error what failed and how."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ... ".join(lines[:1] + lines[1:][-1:])


def _running(deployment: Mapping[str, Any]) -> int:
    return sum(replica["state"] == "RUNNING" for replica in deployment.get("replicas", []))


def all_running(applications: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> bool:
    """False while an application is still to come, or an older version of it still answers."""
    return all(name in applications and applications[name]["status"] == "RUNNING" for name in names)


def failure(applications: Mapping[str, Mapping[str, Any]]) -> list[str] | None:
    """The last lines of the reason for which an application can't be deployed."""
    for name, application in applications.items():
        if application["status"] == "DEPLOY_FAILED":
            reasons = [application.get("message", "")]
            deployments = application.get("deployments", {})
            reasons += [f"{key}: {one.get('message', '')}" for key, one in deployments.items()]
            lines = "\n".join(reasons).splitlines()
            return [f"{name}: DEPLOY_FAILED", *[line for line in lines if line.strip()][-SHOWN_LINES:]]
    return None


def important(lines: Iterable[str]) -> Iterator[str]:
    """Of a log the lines that a user has to see."""
    return (line for line in lines if _IMPORTANT.search(line))
