"""Seats for ranks: which node holds which TP group of which replica.

Rules: a TP group never leaves a node (it would lose NVLink); stages may; two replicas never share a GPU. A
replica stays in one node when it fits there, and takes the node that it fills best, so that whole nodes stay
free for the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as the cluster reports it; only living nodes are listed."""

    node_id: str
    free_gpus: int
    total_gpus: int
    gpu_types: tuple[str, ...] = ()  # as Ray calls them, such as "A10G"; empty: it has not recognised them
    free: Mapping[str, float] = field(default_factory=dict)  # of all its resources, those GPUs included


# What a node has one of when Ray has recognised its GPUs: `accelerator_type:H100`.
_TYPE = "accelerator_type:"


def gpu_types(resources: Mapping[str, float]) -> tuple[str, ...]:
    """Of a node that has these resources; a size may be stated beside the type (A100 and A100-40G)."""
    return tuple(name.removeprefix(_TYPE) for name in resources if name.startswith(_TYPE))


def may_be(types: Sequence[str], gpu: str) -> bool:
    """Whether nothing says that GPUs of these types are others than the catalogue's `gpu`."""
    return gpu == "generic" or all(one.lower() in (gpu, f"{gpu}-80g") for one in types)


def may_be_smaller(types: Sequence[str], gpu: str) -> bool:
    """Whether GPUs of these types may have less memory than the catalogue's: an A100 has 40 or 80 GB, and Ray
    does not always say which."""
    return gpu == "a100" and bool(types) and all(one.lower() == gpu for one in types)


@dataclass(frozen=True, slots=True)
class Seating:
    """Node of each rank, in rank order, for each replica: `nodes[replica][rank]`."""

    nodes: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class NoSeat:
    """Why the replicas can't all be placed now; names what is missing and where."""

    reason: str


def seat(
    nodes: Sequence[NodeView], tensor: int, stages: int, replicas: int = 1, *, one_node: bool = False
) -> Seating | NoSeat:
    """Place `replicas` grids of `stages` x `tensor` ranks on what is free; `one_node`: each on one."""
    largest = max((node.total_gpus for node in nodes), default=0)
    if tensor > largest:
        return NoSeat(
            f"TP={tensor} would straddle nodes: the largest of {len(nodes)} nodes has {largest} GPUs"
        )
    free = {node.node_id: node.free_gpus for node in nodes}
    seated = []
    for replica in range(replicas):
        groups = _one_node(free, tensor, stages) or (None if one_node else _many_nodes(free, tensor, stages))
        if groups is None:
            missing = _missing(free, tensor, stages, replica, replicas)
            return NoSeat(f"STRICT_PACK, all on one node: {missing}" if one_node else missing)
        for node_id in groups:
            free[node_id] -= tensor
        seated.append(tuple(node_id for node_id in groups for _ in range(tensor)))
    return Seating(tuple(seated))


def _one_node(free: dict[str, int], tensor: int, stages: int) -> list[str] | None:
    """The fullest node that still holds the whole replica."""
    fitting = [node_id for node_id, gpus in free.items() if gpus >= tensor * stages]
    if not fitting:
        return None
    return [min(fitting, key=lambda node_id: (free[node_id], node_id))] * stages


def _many_nodes(free: dict[str, int], tensor: int, stages: int) -> list[str] | None:
    """Neighbouring stages together, emptiest nodes first: as few hops between nodes as there can be."""
    groups: list[str] = []
    for node_id in sorted(free, key=lambda name: (-free[name], name)):
        groups += [node_id] * (free[node_id] // tensor)
    return groups[:stages] if len(groups) >= stages else None


def _missing(free: dict[str, int], tensor: int, stages: int, replica: int, replicas: int) -> str:
    seats = sum(gpus // tensor for gpus in free.values())
    by_node = ", ".join(f"{node_id[:12]}: {gpus}" for node_id, gpus in sorted(free.items())) or "no node"
    stranded = sum(gpus % tensor for gpus in free.values())
    text = (
        f"replica {replica + 1} of {replicas} needs {stages} groups of {tensor} GPUs, each on one node; "
        f"{seats} fit, {stages - seats} missing. Free GPUs by node - {by_node}"
    )
    if stranded >= tensor:
        text += f". {stranded} free GPUs are scattered: a TP group of {tensor} never leaves a node"
    return text
