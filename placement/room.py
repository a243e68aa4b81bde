"""How many more replicas the nodes have room for, and what the next one would lack. Pure.

A replica is a whole group of bundles: all of them find a place, or it is not placed at all. Counted as Ray
packs: under STRICT_PACK the group shares one node; under PACK its bundles, the largest first, spread over as
few as there can be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Free amounts are decimal fractions: thirty times 0.1 is three.
SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Room:
    """Replicas that fit beside those that run, up to what was asked; `missing` where that was more."""

    replicas: int
    missing: str = ""
    # On each node, once they are placed.
    left: tuple[Mapping[str, float], ...] = field(default=(), compare=False)


def room(
    free: Sequence[Mapping[str, float]], bundles: Sequence[Mapping[str, float]], strategy: str, most: int
) -> Room:
    """`free`: what each living node has left. At most `most` replicas are looked for."""
    nodes = [dict(node) for node in free]
    groups = [_total(bundles)] if strategy == "STRICT_PACK" else sorted(bundles, key=_size, reverse=True)
    for count in range(most):
        trial = [dict(node) for node in nodes]
        for group in groups:
            node = next((one for one in _fullest_first(trial) if _fits(one, group)), None)
            if node is None:
                return Room(count, _lacking(trial, group), tuple(nodes))
            for resource, amount in group.items():
                node[resource] -= amount
        nodes = trial
    return Room(most, left=tuple(nodes))


def _total(bundles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = {name for bundle in bundles for name in bundle}
    return {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in sorted(names)}


def _size(resources: Mapping[str, float]) -> tuple[float, float, float]:
    """By what there is least of."""
    return resources.get("GPU", 0.0), resources.get("CPU", 0.0), sum(resources.values())


def _fullest_first(nodes: list[dict[str, float]]) -> list[dict[str, float]]:
    """So that whole nodes stay free for the next."""
    return sorted(nodes, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)))


def _fits(node: Mapping[str, float], group: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) + SLACK >= amount for name, amount in group.items())


def _lacking(nodes: Sequence[Mapping[str, float]], group: Mapping[str, float]) -> str:
    """Of the node that lacks least, the resource that it lacks most of: `GPU: 8 on one node, 5 free`."""
    if not nodes:
        return "no node"

    def share(node: Mapping[str, float], name: str) -> float:
        return min(1.0, node.get(name, 0.0) / group[name])

    best = max(nodes, key=lambda node: sum(share(node, name) for name in group))
    name = min(group, key=lambda one: share(best, one))
    return f"{name}: {group[name]:g} on one node, {best.get(name, 0.0):g} free"
