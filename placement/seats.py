"""Seats for the applications of a file on what a cluster has free: each on what those before it leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from app.config import ApplicationConfig, ParallelConfig
from app.plan_check import control_room, plan_of
from placement.hardware import Cluster
from placement.nodes import NodeView, NoSeat, Seating, may_be, may_be_smaller, seat
from placement.plans import ParallelPlan
from placement.room import room


@dataclass(frozen=True, slots=True)
class Seated:
    """What to say of an application's seats, and what it lacks; empty where all of it finds a place."""

    lines: tuple[str, ...]
    missing: str = ""


class Seats:
    """Of a cluster with these nodes."""

    def __init__(self, nodes: Sequence[NodeView]) -> None:
        self._nodes = tuple(nodes)

    def take(self, config: ApplicationConfig, gpu: str) -> Seated:
        """Engines on GPUs that may be the catalogue's `gpu`, gateways and schedulers on what is left; all of
        them, or nothing is taken."""
        said = tuple(_about_types(self._nodes, gpu))
        plan, parallel = plan_of(config), config.parallel
        alike = [node for node in self._nodes if may_be(node.gpu_types, gpu)]
        others = [node for node in self._nodes if not may_be(node.gpu_types, gpu)]
        seating = _seating(alike, plan, parallel)
        if isinstance(seating, NoSeat):
            return Seated(said, seating.reason)
        bundles = [*parallel.bundles] * plan.replicas
        taken = list(zip((node_id for ranks in seating.nodes for node_id in ranks), bundles, strict=True))
        control = control_room(config, [*(_left(n, taken) for n in alike), *(n.free for n in others)])
        if control.missing:
            return Seated(said, control.missing)
        spread = not plan.one_node and sum(node.total_gpus > 0 for node in alike) > 1
        self._nodes = tuple(
            replace(node, free_gpus=int(left.get("GPU", 0)), free=left)
            for node, left in zip([*alike, *others], control.left, strict=True)
        )
        return Seated((*said, *_about_seats(seating, spread=spread)))


def _seating(nodes: Sequence[NodeView], plan: ParallelPlan, parallel: ParallelConfig) -> Seating | NoSeat:
    """On GPUs that have what else a bundle holds beside them; where GPUs alone are too few, that is said."""
    by_gpus = _seat(nodes, plan)
    if isinstance(by_gpus, NoSeat):
        return by_gpus
    found = room([node.free for node in nodes], parallel.bundles, parallel.strategy, plan.replicas)
    if found.missing:
        return NoSeat(f"replica {found.replicas + 1} of {plan.replicas}: {found.missing}")
    bundles = [*parallel.bundles] * plan.replicas
    seating = _seat([replace(node, free_gpus=_places(node, bundles)) for node in nodes], plan)
    if isinstance(seating, NoSeat):
        return NoSeat(f"of GPUs with what else a bundle holds beside them: {seating.reason}")
    return seating


def _seat(nodes: Sequence[NodeView], plan: ParallelPlan) -> Seating | NoSeat:
    return seat(nodes, plan.tensor_parallel, plan.pipeline_parallel, plan.replicas, one_node=plan.one_node)


def _places(node: NodeView, bundles: Sequence[Mapping[str, float]]) -> int:
    """How many of the bundles fit into what the node has free, the smallest first."""
    free: tuple[Mapping[str, float], ...] = (node.free,)
    for count, bundle in enumerate(sorted(bundles, key=lambda bundle: sum(bundle.values()))):
        found = room(free, [bundle], "PACK", 1)
        if found.missing:
            return count
        free = found.left
    return len(bundles)


def _left(node: NodeView, taken: Sequence[tuple[str, Mapping[str, float]]]) -> dict[str, float]:
    """What the node has free beside the bundles that it holds."""
    free = dict(node.free)
    for node_id, bundle in taken:
        for name, amount in bundle.items() if node_id == node.node_id else ():
            free[name] = free.get(name, 0.0) - amount
    return free


def seats_of(cluster: Cluster, configs: Sequence[ApplicationConfig]) -> Seats:
    """Of a cluster of which nothing but GPUs is known: there is enough of all else that these ask for."""
    asked = {name for config in configs for part in _parts(config) for name in part}
    gpus = cluster.gpus_per_node
    free = {**dict.fromkeys(asked, inf), "GPU": float(gpus)}
    return Seats([NodeView(f"node {number + 1}", gpus, gpus, free=free) for number in range(cluster.nodes)])


def _parts(config: ApplicationConfig) -> Iterator[Mapping[str, float]]:
    yield from config.parallel.bundles
    yield config.control_resources


def _about_types(nodes: Sequence[NodeView], gpu: str) -> Iterator[str]:
    """What Ray says, or does not say, of GPUs that should be `gpu`s."""
    others = [node for node in nodes if not may_be(node.gpu_types, gpu)]
    if others:
        types = ", ".join(sorted({one for node in others for one in node.gpu_types}))
        gpus = sum(node.total_gpus for node in others)
        yield f"not counted: {gpus} GPUs, {types} and not {gpu} (--hardware); Ray may choose them"
    silent = [node for node in nodes if node.total_gpus and not node.gpu_types]
    if silent:
        gpus = sum(node.total_gpus for node in silent)
        yield f"Ray reports no type of {gpus} GPUs: not checked that they are {gpu}"
    unsized = sum(node.total_gpus for node in nodes if may_be_smaller(node.gpu_types, gpu))
    if unsized:
        yield f"Ray reports no size of {unsized} {gpu.upper()}: not checked that they have 80 GB"


def _about_seats(seating: Seating, *, spread: bool) -> Iterator[str]:
    if spread:
        yield "a seating that keeps TP groups whole exists; Ray may choose another:"
    for replica, ranks in enumerate(seating.nodes):
        yield f"replica {replica + 1}: " + " ".join(f"{r}@{node[:8]}" for r, node in enumerate(ranks))
    yield "NVLink islands inside a node are not known to Ray: check nvidia-smi topo -m"
