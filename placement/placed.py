"""Where the ranks of running engines are: worker actors joined to the grid by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from placement.topology import Topology

# vLLM 0.29, v1/executor/ray_utils.py, `build_actor_name`: a size of one is left out of the name.
_WORKER_NAME = re.compile(r"vllm_Worker_(?P<engine>.+?)(?:_TP(?P<tensor_rank>\d+))?(?:_PP(?P<stage>\d+))?")
# Ray 2.60, serve/_private/common.py, `ReplicaID.to_full_id_str`: a replica's group has the replica's name.
_GROUP_NAME = re.compile(r"SERVE_REPLICA::(?P<application>.+)#[^#]+#[^#]+")


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker actor; None where the cluster does not say, or no application of Serve's has its group."""

    actor: str
    node: str | None
    placement_group: str | None
    bundle: int | None
    application: str | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """One running engine: its workers by rank, None where a rank has no actor."""

    engine: str
    workers: tuple[Worker | None, ...]

    @property
    def application(self) -> str | None:
        """None where the cluster does not say."""
        return next((worker.application for worker in self.workers if worker and worker.application), None)


@dataclass(frozen=True, slots=True)
class WorkerName:
    """What the name of a worker actor says; None where the name leaves a part out."""

    engine: str
    tensor_rank: int | None
    stage: int | None

    @classmethod
    def parse(cls, name: str) -> WorkerName | None:
        """None for an actor that is no worker of vLLM's."""
        match = _WORKER_NAME.fullmatch(name)
        if match is None:
            return None
        tensor_rank, stage = match["tensor_rank"], match["stage"]
        return cls(
            match["engine"],
            None if tensor_rank is None else int(tensor_rank),
            None if stage is None else int(stage),
        )

    def rank(self, topology: Topology) -> int | None:
        """The rank in this grid; None for a worker of another grid."""
        pp, tp = topology.pipeline_parallel_size, topology.tensor_parallel_size
        if (self.tensor_rank is None) != (tp == 1) or (self.stage is None) != (pp == 1):
            return None
        tensor_rank, stage = self.tensor_rank or 0, self.stage or 0
        return stage * tp + tensor_rank if tensor_rank < tp and stage < pp else None


def application_of(group_name: str) -> str | None:
    """The Serve application that a placement group is reserved for; None for a group of somebody else's."""
    match = _GROUP_NAME.fullmatch(group_name)
    return None if match is None else match["application"]


def replicas(workers: Iterable[Worker], topology: Topology, application: str) -> list[Replica]:
    """The application's engines of this grid, by name; a worker whose name does not fit it is left out. Where
    the cluster does not say whose a worker is, it may be another application's."""
    by_engine: dict[str, list[Worker | None]] = {}
    for worker in workers:
        name = WorkerName.parse(worker.actor)
        rank = name.rank(topology) if name is not None else None
        if name is not None and rank is not None and worker.application in (None, application):
            by_engine.setdefault(name.engine, [None] * topology.ranks)[rank] = worker
    return [Replica(engine, tuple(found)) for engine, found in sorted(by_engine.items())]
