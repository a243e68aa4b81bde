"""The state of the whole application as one value: what the page, the terminal and `/status.json` show.

What nobody measures is empty or None, and is not shown: never a zero that stands for "not known".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import TypeAdapter

from app.config import ApplicationConfig
from app.flow.detail import Detail, ReplicaDetail
from app.flow.slo import Standing
from app.flow.snapshot import Snapshot
from app.status.history import Sample, ScaleDecision

# Tenants that are named: a screen, and what a page may weigh.
MAX_TENANTS = 20
# Engines and ranks that are drawn; the others are counted.
MAX_REPLICAS = 12
MAX_RANKS = 96


@dataclass(frozen=True, slots=True)
class StageView:
    """A pipeline stage: its inclusive range of layers, None where the model's shape is not known."""

    stage: int
    first_layer: int | None
    last_layer: int | None


@dataclass(frozen=True, slots=True)
class RankLoad:
    """What one rank of one engine holds and does; `busy` is a share, 0 to 1. None where it is not known."""

    replica_id: str
    rank: int
    device: str
    memory_bytes: int
    device_bytes: int
    busy: float | None = None


@dataclass(frozen=True, slots=True)
class Attainment:
    """How often a class kept a promise within a window; `total` is at least 1, `objective` a share."""

    class_name: str
    promise: str
    window_s: float
    kept: int
    total: int
    objective: float
    # Share of the window's error budget that is left; negative when it is overdrawn.
    budget_left: float

    @property
    def share(self) -> float:
        return self.kept / self.total


@dataclass(frozen=True, slots=True)
class StatusView:
    """Times in seconds; `at_s` since the epoch."""

    at_s: float
    model: str
    tensor_parallel_size: int
    stages: tuple[StageView, ...]
    queued: int
    max_queued: int
    backlog_tokens: int
    # Predicted time to empty the queue.
    drain_s: float
    # Places that are taken, and how many the engines have, all together.
    in_flight: int
    places: int
    replicas_ready: int
    min_replicas: int
    max_replicas: int
    detail: Detail
    # Requests by outcome since the scheduler started, the commonest first.
    ended: tuple[tuple[str, int], ...]
    attainment: tuple[Attainment, ...] = ()
    history: tuple[Sample, ...] = ()
    # Newest first.
    scaling: tuple[ScaleDecision, ...] = ()
    ranks: tuple[RankLoad, ...] = ()

    def shown_replicas(self) -> tuple[ReplicaDetail, ...]:
        """Those that are drawn: as many as the bounds allow, at least one."""
        ranks = len(self.stages) * self.tensor_parallel_size
        return self.detail.replicas[: max(1, min(MAX_REPLICAS, MAX_RANKS // ranks))]

    def rank_loads(self, replica_id: str) -> dict[int, RankLoad]:
        """By rank; empty where they are not known."""
        return {one.rank: one for one in self.ranks if one.replica_id == replica_id}


def status_view(
    config: ApplicationConfig,
    snapshot: Snapshot,
    detail: Detail,
    standings: Iterable[Standing],
    history: tuple[Sample, ...],
    scaling: tuple[ScaleDecision, ...],
    at_s: float,
) -> StatusView:
    """What the scheduler knows; the loads of ranks are the gateway's to add."""
    ended = sorted(snapshot.ended.items(), key=lambda one: (-one[1], one[0].label))
    return StatusView(
        at_s=at_s,
        model=config.model.name,
        tensor_parallel_size=config.parallel.tensor_parallel_size,
        stages=tuple(_stages(config)),
        queued=snapshot.queued,
        max_queued=config.scheduler.max_queued,
        backlog_tokens=snapshot.backlog_tokens,
        drain_s=snapshot.drain_s,
        in_flight=sum(snapshot.in_flight_by_replica.values()),
        places=sum(one.limit for one in detail.replicas if one.state == "ready"),
        replicas_ready=snapshot.replicas_ready,
        min_replicas=config.replicas.min,
        max_replicas=config.replicas.max,
        detail=detail,
        ended=tuple((outcome.label, count) for outcome, count in ended if count),
        attainment=tuple(_attainment(one) for one in standings),
        history=history,
        scaling=scaling,
    )


def _attainment(standing: Standing) -> Attainment:
    return Attainment(
        standing.class_name,
        standing.promise,
        standing.window_s,
        standing.kept,
        standing.total,
        standing.objective,
        standing.budget_left,
    )


def _stages(config: ApplicationConfig) -> Iterator[StageView]:
    partition, shape = config.parallel.layer_partition, config.model.known_shape()
    topology = config.parallel.topology()
    if partition is None and shape is None:
        for stage in range(topology.pipeline_parallel_size):
            yield StageView(stage, None, None)
        return
    layers = sum(partition) if partition is not None else shape.layers if shape is not None else 0
    for rank in topology.grid(layers, partition):
        if rank.tensor_rank == 0:
            yield StageView(rank.stage, rank.first_layer, rank.last_layer)


_adapter = TypeAdapter(StatusView)


def to_json(view: StatusView) -> bytes:
    return _adapter.dump_json(view)


def from_json(text: bytes) -> StatusView:
    """Raises ValueError for what is no such value."""
    return _adapter.validate_json(text)
