"""What the outside may know of the flow, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.flow.outcome import Outcome
from app.flow.queue import FlowQueue
from app.flow.replicas import ReplicaPool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the outside may know: for metrics, autoscaling and readiness."""

    queued: int
    in_flight: int
    replicas_ready: int
    # Places that are taken: a lease of several answers takes as many.
    in_flight_by_replica: dict[str, int]
    ended: dict[Outcome, int]
    queued_by_class: dict[str, int] = field(default_factory=dict)
    limit_by_replica: dict[str, int] = field(default_factory=dict)
    replicas_starting: int = 0
    # Prompt tokens that wait in the queue.
    backlog_tokens: int = 0
    # Predicted time to empty the queue.
    drain_s: float = 0.0
    # Of the KV cache: the share in use, and the size, as each engine last said (those that did); tokens that
    # its leases are expected to take.
    kv_use_by_replica: dict[str, float] = field(default_factory=dict)
    kv_capacity_tokens_by_replica: dict[str, int] = field(default_factory=dict)
    kv_reserved_tokens_by_replica: dict[str, int] = field(default_factory=dict)


def take_snapshot(
    queue: FlowQueue,
    pool: ReplicaPool,
    in_flight: int,
    ended: Mapping[Outcome, int],
    drain_s: float,
    now_s: float,
) -> Snapshot:
    """A replica that is gone, or silent without leases, is not shown."""
    replicas = {
        id_: one
        for id_, one in pool.replicas.items()
        if not one.gone and (pool.fresh(one, now_s) or one.in_flight)
    }
    metrics = {id_: one.report.metrics for id_, one in replicas.items() if one.report.metrics is not None}
    return Snapshot(
        queued=len(queue),
        in_flight=in_flight,
        replicas_ready=sum(1 for _ in pool.usable(now_s)),
        in_flight_by_replica={id_: one.running for id_, one in replicas.items()},
        ended=dict(ended),
        queued_by_class={one.policy.name: one.size for one in queue.classes},
        limit_by_replica={id_: one.limit.requests for id_, one in replicas.items()},
        replicas_starting=len(pool.starting),
        backlog_tokens=sum(one.prompt_tokens for one in queue.classes),
        drain_s=drain_s,
        kv_use_by_replica={id_: one.kv_use for id_, one in metrics.items()},
        kv_capacity_tokens_by_replica={id_: one.kv_capacity_tokens for id_, one in metrics.items()},
        kv_reserved_tokens_by_replica={id_: one.tokens for id_, one in replicas.items()},
    )
