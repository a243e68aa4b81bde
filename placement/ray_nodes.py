"""The live side of seating: what Ray's nodes have free, and groups that pin each rank to its node."""

from __future__ import annotations

from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from placement.nodes import NodeView

_NODE_LABEL = "ray.io/node-id"


def read_nodes(gpu_resource: str = "GPU") -> list[NodeView]:
    """Living nodes of the connected cluster with their whole free GPUs."""
    free = ray._private.state.available_resources_per_node()
    return [
        NodeView(
            node_id=node["NodeID"],
            free_gpus=int(free.get(node["NodeID"], {}).get(gpu_resource, 0)),
            total_gpus=int(node["Resources"].get(gpu_resource, 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def create_group(
    node_of_rank: tuple[str, ...], bundles: list[dict[str, float]], name: str = ""
) -> PlacementGroup:
    """A placement group whose bundle r is on the node of rank r. Bundle indices are vLLM's rank order."""
    selectors = [{_NODE_LABEL: node_id} for node_id in node_of_rank]
    return placement_group(bundles, strategy="PACK", name=name, bundle_label_selector=selectors)


def nodes_of_group(group: PlacementGroup) -> tuple[str, ...]:
    """Node of each bundle, in bundle order, as Ray placed it."""
    table: dict[str, Any] = ray.util.placement_group_table(group)
    return tuple(table["bundles_to_node_id"][index] for index in range(group.bundle_count))


def bundle_indices(node_of_rank: tuple[str, ...]) -> str:
    """vLLM's VLLM_RAY_BUNDLE_INDICES: rank r takes bundle r, whatever order Ray lists the nodes in."""
    return ",".join(str(rank) for rank in range(len(node_of_rank)))


def read_free() -> list[dict[str, float]]:
    """What each living node of the connected cluster has left. Asks the cluster: not for an event loop."""
    free = ray._private.state.available_resources_per_node()
    return [dict(free.get(node["NodeID"], {})) for node in ray.nodes() if node["Alive"]]
