"""The live side of seating: what Ray's nodes have free."""

from __future__ import annotations

from typing import Any

import ray

from placement.live import reach
from placement.nodes import NodeView, gpu_types


def nodes_of(address: str) -> list[NodeView]:
    """Of the cluster at `auto` or `host:port`. OSError where nobody listens, ValueError for no address."""
    reach(address)
    ray.init(address=address, log_to_driver=False)
    try:
        return read_nodes()
    finally:
        ray.shutdown()


def read_nodes() -> list[NodeView]:
    """Living nodes of the connected cluster with what is free on them."""
    return [
        NodeView(
            node_id=node["NodeID"],
            free_gpus=int(free.get("GPU", 0)),
            total_gpus=int(node["Resources"].get("GPU", 0)),
            gpu_types=gpu_types(node["Resources"]),
            free=free,
        )
        for node, free in _living()
    ]


def read_free() -> list[dict[str, float]]:
    """What each living node of the connected cluster has left. Asks the cluster: not for an event loop."""
    return [dict(free) for _, free in _living()]


def _living() -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Nodes with their free resources. Ray's public API gives these for the cluster as a whole only."""
    free = ray._private.state.available_resources_per_node()
    return [(node, free.get(node["NodeID"], {})) for node in ray.nodes() if node["Alive"]]
