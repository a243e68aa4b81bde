"""The plan as text and as JSON: one row a rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from placement.placed import Replica, Worker
from placement.report import table
from placement.topology import Bundle, Rank, Topology

UNKNOWN = "?"
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Plan:
    """An application's grid; `layers` is None for a model that is not in the catalogue."""

    application: str
    model: str
    source: str
    topology: Topology
    bundles: Sequence[Bundle]
    layers: int | None
    partition: Sequence[int] | None

    def ranks(self) -> list[Rank]:
        return list(self.topology.grid(self._known_layers or 0, self.partition))

    @property
    def layer_counts(self) -> list[int] | None:
        layers = self._known_layers
        return None if layers is None else self.topology.layer_counts(layers, self.partition)

    @property
    def _known_layers(self) -> int | None:
        return sum(self.partition) if self.partition is not None else self.layers


def plan_text(plan: Plan) -> str:
    """The heading and the table of an application's plan."""
    head = ["GPU" if "GPU" in plan.bundles[0] else "process", "stage", "layers", "tensor rank", "bundle"]
    rows = [
        [str(rank.index), str(rank.stage), _layers(plan, rank), str(rank.tensor_rank), _bundle(plan, rank)]
        for rank in plan.ranks()
    ]
    return "\n".join([_heading(plan), table(head, rows, rule=False)])


def replica_text(plan: Plan, replica: Replica) -> str:
    """Where the ranks of one running engine are."""
    head = ["rank", "stage", "layers", "tensor rank", "node", "bundle", "placement group", "actor"]
    rows = [
        [str(rank.index), str(rank.stage), _layers(plan, rank), str(rank.tensor_rank), *_where(worker)]
        for rank, worker in zip(plan.ranks(), replica.workers, strict=True)
    ]
    return "\n".join([f"engine {replica.engine}", table(head, rows, rule=False)])


def plan_json(plan: Plan, replicas: Sequence[Replica] | None = None) -> Json:
    """The same, for programs; `replicas` is absent when no cluster was asked."""
    document: Json = {
        "application": plan.application,
        "model": plan.model,
        "source": plan.source,
        "pipeline_parallel_size": plan.topology.pipeline_parallel_size,
        "tensor_parallel_size": plan.topology.tensor_parallel_size,
        "ranks": [_rank_json(plan, rank) for rank in plan.ranks()],
    }
    if replicas is not None:
        document["replicas"] = [
            {
                "engine": replica.engine,
                "application": replica.application,
                "ranks": list(map(_worker_json, replica.workers)),
            }
            for replica in replicas
        ]
    return document


def _heading(plan: Plan) -> str:
    topology, counts = plan.topology, plan.layer_counts
    layers = "unknown layers" if counts is None else f"{sum(counts)} layers as {'+'.join(map(str, counts))}"
    return (
        f"{plan.application}: {plan.model} ({plan.source}), "
        f"PP={topology.pipeline_parallel_size} x TP={topology.tensor_parallel_size}, {layers}"
    )


def _layers(plan: Plan, rank: Rank) -> str:
    return UNKNOWN if plan.layer_counts is None else f"{rank.first_layer}-{rank.last_layer}"


def _bundle(plan: Plan, rank: Rank) -> str:
    amounts = ", ".join(f"{name} {amount:g}" for name, amount in plan.bundles[rank.bundle].items())
    return f"{rank.bundle} ({amounts})"


def _where(worker: Worker | None) -> list[str]:
    if worker is None:
        return [UNKNOWN, UNKNOWN, UNKNOWN, "none"]
    bundle = None if worker.bundle is None else str(worker.bundle)
    return [worker.node or UNKNOWN, bundle or UNKNOWN, worker.placement_group or UNKNOWN, worker.actor]


def _rank_json(plan: Plan, rank: Rank) -> Json:
    known = plan.layer_counts is not None
    return {
        "rank": rank.index,
        "stage": rank.stage,
        "tensor_rank": rank.tensor_rank,
        "first_layer": rank.first_layer if known else None,
        "last_layer": rank.last_layer if known else None,
        "bundle": rank.bundle,
        "resources": dict(plan.bundles[rank.bundle]),
    }


def _worker_json(worker: Worker | None) -> Json | None:
    if worker is None:
        return None
    return {
        "actor": worker.actor,
        "node": worker.node,
        "placement_group": worker.placement_group,
        "bundle": worker.bundle,
    }
