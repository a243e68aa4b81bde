"""Reads the worker actors of a running cluster."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from placement.placed import Worker, application_of

# The class of vLLM's Ray workers (v1/executor/ray_executor_v2.py).
WORKER_CLASS = "RayWorkerProc"
# The most that Ray's state API returns.
ACTORS_LIMIT = 10_000
STATE_TIMEOUT_S = 10
# Ray itself tries for minutes to reach an address at which nobody listens.
CONNECT_TIMEOUT_S = 5.0
# What an actor in bundle 3 of a group holds: `GPU_group_3_<group>`.
_BUNDLE_RESOURCE = re.compile(r".+_group_(?P<index>\d+)_(?P<group>[0-9a-f]+)")


def read_workers(address: str) -> list[Worker]:
    """vLLM's live workers in the cluster at `address` (`auto`, `host:port` or `ray://...`).

    Node, group, bundle and application need Ray's state API, which the dashboard serves. Where it is off,
    names are all that Ray gives away, and the rest is None. Raises OSError or ValueError without a cluster.
    """
    import ray
    from ray.util.state.exception import RayStateApiException

    with _connected(address) as dashboard_url:
        if not dashboard_url:
            return list(_named())
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        try:
            return list(_observed(address, nodes))
        except RayStateApiException:
            return list(_named())


@contextmanager
def _connected(address: str) -> Iterator[str]:
    """Gives the address of the cluster's dashboard, empty where it is off."""
    import ray

    joined_before = ray.is_initialized()
    if not joined_before:
        reach(address)
    context = ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    try:
        yield context.dashboard_url
    finally:
        if not joined_before:
            ray.shutdown()


def reach(address: str) -> None:
    """Raises OSError (a ConnectionError among others) when nobody listens, ValueError for what is no address:
    at `local` Ray would start a cluster. `auto` is Ray's to look up."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise ValueError(f"{address!r} is neither auto nor HOST:PORT")
    socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()


def _observed(address: str, nodes: dict[str, str]) -> Iterator[Worker]:
    import ray
    from ray.util.state import list_actors

    actors = list_actors(
        address=None if address.startswith("ray://") else address,
        filters=[("state", "=", "ALIVE"), ("class_name", "=", WORKER_CLASS)],
        limit=ACTORS_LIMIT,
        timeout=STATE_TIMEOUT_S,
        detail=True,
    )
    groups = ray.util.placement_group_table()
    for actor in actors:
        # The worker of a node that has just died may still be listed.
        if actor.node_id in nodes:
            group = actor.placement_group_id
            bundle = bundle_of(actor.required_resources, group)
            application = application_of(groups.get(group, {}).get("name", ""))
            yield Worker(actor.name, nodes[actor.node_id], group, bundle, application)


def bundle_of(resources: dict[str, Any] | None, group: str | None) -> int | None:
    """The index of the bundle that these resources belong to; None for an actor outside the group."""
    for name in resources or {}:
        match = _BUNDLE_RESOURCE.fullmatch(name)
        if match is not None and match["group"] == group:
            return int(match["index"])
    return None


def _named() -> Iterator[Worker]:
    import ray

    for actor in ray.util.list_named_actors(all_namespaces=True):
        yield Worker(actor["name"], None, None, None)
