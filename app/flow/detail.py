"""What a person wants to see of the flow: who waits, for how long, and what each engine has.

The snapshot is taken several times a second; this is taken only while somebody looks, because it goes
through the whole queue and all tenants.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from app.flow.predictor import Predictor
from app.flow.queue import ClassQueue, FlowQueue
from app.flow.replicas import Replica, ReplicaPool
from app.flow.route import Router
from app.flow.tenants import Tenants
from app.flow.ticket import EngineMetrics


@dataclass(frozen=True, slots=True)
class ClassDetail:
    """One class of the queue, seconds and tokens."""

    name: str
    ttft_budget_s: float
    queued: int
    prompt_tokens: int
    # How long its oldest ticket has waited; 0 where nothing waits.
    oldest_wait_s: float
    # Predicted for a newcomer; None without an engine.
    expected_wait_s: float | None


@dataclass(frozen=True, slots=True)
class TenantDetail:
    """One tenant with something in the system; `queued` by class, in the order of the classes, requests;
    `running` in answers."""

    name: str
    weight: float
    queued: tuple[int, ...]
    running: int
    oldest_wait_s: float


@dataclass(frozen=True, slots=True)
class ReplicaDetail:
    """One engine: what it was given, and what it said last (`metrics`, None where it could not be asked)."""

    replica_id: str
    # ready, barred (for a moment: calls don't reach it), draining, silent (no report lately)
    state: str
    # Places that are taken, of so many.
    taken: int
    limit: int
    # KV-cache tokens that its leases reserve, and how many they may; 0: no limit.
    reserved_tokens: int
    token_limit: int
    silent_s: float
    metrics: EngineMetrics | None


@dataclass(frozen=True, slots=True)
class Detail:
    """The whole flow at one moment. `starting_s`: when each engine on its way is expected, from now."""

    classes: tuple[ClassDetail, ...]
    tenants: tuple[TenantDetail, ...]
    # Tenants with something in the system beyond those that are named.
    more_tenants: int
    replicas: tuple[ReplicaDetail, ...]
    starting_s: tuple[float, ...]


def take_detail(
    queue: FlowQueue,
    pool: ReplicaPool,
    router: Router,
    tenants: Tenants,
    predictor: Predictor,
    max_tenants: int,
    now_s: float,
) -> Detail:
    """Names the `max_tenants` tenants that have most in the system; a replica that is gone is not shown."""
    named, more = _tenants(queue, tenants, max_tenants, now_s)
    return Detail(
        classes=tuple(_class(one, pool, router, predictor, now_s) for one in queue.classes),
        tenants=tuple(named),
        more_tenants=more,
        replicas=tuple(_replicas(pool, now_s)),
        starting_s=tuple(pool.starts_s(now_s)),
    )


def _class(
    queue: ClassQueue, pool: ReplicaPool, router: Router, predictor: Predictor, now_s: float
) -> ClassDetail:
    place = queue.size == 0 and pool.free > 0 and queue.has_room(pool.free)
    place = place and router.has_place(0, queue.room_s(), now_s)
    return ClassDetail(
        name=queue.policy.name,
        ttft_budget_s=queue.policy.ttft_budget_s,
        queued=queue.size,
        prompt_tokens=queue.prompt_tokens,
        oldest_wait_s=max(0.0, now_s - queue.arrivals.oldest().ticket.arrived_s) if queue.size else 0.0,
        expected_wait_s=None if not pool.ready else 0.0 if place else predictor.drain_s(queue.rank, now_s),
    )


def _tenants(queue: FlowQueue, tenants: Tenants, most: int, now_s: float) -> tuple[list[TenantDetail], int]:
    busy = tenants.busy()
    shown = heapq.nlargest(most, busy, key=lambda account: (account.queued, account.running))
    queued = {account.name: [0] * len(queue.classes) for account in shown}
    oldest_s = dict.fromkeys(queued, now_s)
    for entry in queue:
        name = entry.account.name
        if name in queued:
            queued[name][entry.rank] += 1
            oldest_s[name] = min(oldest_s[name], entry.ticket.arrived_s)
    details = [
        TenantDetail(
            one.name, one.policy.weight, tuple(queued[one.name]), one.running, now_s - oldest_s[one.name]
        )
        for one in shown
    ]
    return details, len(busy) - len(shown)


def _replicas(pool: ReplicaPool, now_s: float) -> Iterator[ReplicaDetail]:
    for replica_id, replica in sorted(pool.replicas.items()):
        if replica.gone or not (pool.fresh(replica, now_s) or replica.in_flight):
            continue
        yield ReplicaDetail(
            replica_id,
            _state(pool, replica, now_s),
            replica.running,
            replica.limit.requests,
            replica.tokens,
            replica.limit.tokens,
            max(0.0, now_s - replica.seen_s),
            replica.report.metrics,
        )


def _state(pool: ReplicaPool, replica: Replica, now_s: float) -> str:
    if not pool.fresh(replica, now_s):
        return "silent"
    if replica.report.draining:
        return "draining"
    return "ready" if pool.reachable(replica, now_s) else "barred"
