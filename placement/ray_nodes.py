"""The live side of seating: what Ray's nodes have free."""

from __future__ import annotations

from typing import Any

import ray

from placement.nodes import NodeView, gpu_types


def read_nodes() -> list[NodeView]:
    """Living nodes of the connected cluster with their whole free GPUs."""
    return [
        NodeView(
            node_id=node["NodeID"],
            free_gpus=int(free.get("GPU", 0)),
            total_gpus=int(node["Resources"].get("GPU", 0)),
            gpu_types=gpu_types(node["Resources"]),
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
