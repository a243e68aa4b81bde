"""Values of the status view for the tests of its renderings."""

from __future__ import annotations

from dataclasses import replace

from app.flow.detail import ClassDetail, Detail, ReplicaDetail, TenantDetail
from app.flow.ticket import EngineMetrics
from app.status.history import Sample, ScaleDecision
from app.status.view import Attainment, RankLoad, StageView, StatusView

GIB = 2**30

IDLE = StatusView(
    at_s=1_790_000_000.0,
    model="tiny-llama",
    tensor_parallel_size=1,
    stages=(StageView(0, None, None),),
    queued=0,
    max_queued=512,
    backlog_tokens=0,
    drain_s=0.0,
    in_flight=0,
    places=0,
    replicas_ready=0,
    min_replicas=1,
    max_replicas=1,
    detail=Detail(
        classes=tuple(
            ClassDetail(name, budget_s, 0, 0, 0.0, None)
            for name, budget_s in (("interactive", 2.0), ("standard", 10.0), ("batch", 60.0))
        ),
        tenants=(),
        more_tenants=0,
        replicas=(),
        starting_s=(),
    ),
    ended=(),
)


def engine(number: int, state: str = "ready") -> ReplicaDetail:
    metrics = EngineMetrics(58, 2, 0.31 + 0.2 * number, 3 * number, 0.0384, 1_204_224)
    silent_s = 7.2 if state == "silent" else 0.4
    return ReplicaDetail(f"replica{number}x7k2", state, 60 + number, 64, 80_000, 1_144_012, silent_s, metrics)


def loads(replica_id: str, ranks: int) -> tuple[RankLoad, ...]:
    return tuple(
        RankLoad(
            replica_id,
            rank,
            f"GPU {rank} of node-a",
            int((61.5 + 0.7 * (rank % 4)) * GIB),
            80 * GIB,
            0.97 if rank == 3 else 0.62 + 0.04 * (rank % 5),
        )
        for rank in range(ranks)
    )


def busy(engines: int = 2, tenants: int = 4) -> StatusView:
    """Llama-3-70B's grid under load."""
    replicas = tuple(engine(n, "ready" if n < 2 else "draining") for n in range(engines))
    names = ["search", "reports", "a-tenant-with-a-rather-long-name", "kiosk"]
    names += [f"tenant-{number}" for number in range(4, tenants)]
    return replace(
        IDLE,
        model="llama-3-70b-instruct",
        tensor_parallel_size=2,
        stages=tuple(StageView(stage, 20 * stage, 20 * stage + 19) for stage in range(4)),
        queued=147,
        backlog_tokens=183_412,
        drain_s=11.4,
        in_flight=sum(one.taken for one in replicas),
        places=64 * engines,
        replicas_ready=engines,
        max_replicas=4,
        detail=Detail(
            classes=(
                ClassDetail("interactive", 2.0, 3, 2_210, 0.38, 0.0),
                ClassDetail("standard", 10.0, 41, 60_102, 8.9, 9.4),
                ClassDetail("batch", 60.0, 103, 121_100, 58.6, 75.0),
            ),
            tenants=tuple(
                TenantDetail(name, 2.0 if n == 0 else 1.0, (3 if n == 0 else 0, 11 - n, 40 - n), 60 - n, 58.6)
                for n, name in enumerate(names[:tenants])
            ),
            more_tenants=9,
            replicas=replicas,
            starting_s=(34.0,),
        ),
        ended=(
            ("completed", 48_211),
            ("rejected_deadline", 3_120),
            ("cancelled", 211),
            ("evicted_deadline", 40),
        ),
        attainment=(
            Attainment("interactive", "answered", 300.0, 1_203, 1_203, 0.99, 1.0),
            Attainment("interactive", "ttft", 300.0, 1_196, 1_203, 0.99, 0.42),
            Attainment("interactive", "ttft", 3600.0, 14_380, 14_402, 0.99, 0.85),
            Attainment("standard", "answered", 300.0, 610, 702, 0.99, -12.1),
            Attainment("standard", "ttft", 300.0, 600, 610, 0.99, -0.64),
        ),
        history=tuple(
            Sample(1_790_000_000.0 - 2 * (149 - n), max(0, (n * 37) % 41 + n - 40), 128) for n in range(150)
        ),
        scaling=(
            ScaleDecision(1_789_999_880.0, 3, "queue"),
            ScaleDecision(1_789_991_000.0, 2, "kv_cache"),
        ),
        ranks=tuple(load for one in replicas for load in loads(one.replica_id, 8)),
    )
