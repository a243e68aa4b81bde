"""Serve's request router for the scheduler: one replica leads, the others are spares.

Everyone who calls has to choose the same one without asking anybody: the replica that started first. Its
start travels with it, so a router never knows a replica without it, and a successor is younger than every
spare. A router drops a replica when a call finds it dead; the next call finds the spare, which hears of all
engines within a report's interval.
"""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

# What a replica tells by Serve's `record_replica_metadata`: seconds since the epoch.
STARTED_S = "started_s"


class LeaderRouter(RequestRouter):
    """Routes every call to the replica that leads."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        if pending_request is not None:
            # Else Serve asks again at once and for ever, without a pause in which anything could change.
            pending_request.routing_context.should_backoff = True
        return [sorted(candidate_replicas, key=_seniority)[:1]]


def _seniority(replica: RunningReplica) -> tuple[float, str]:
    return replica.replica_metadata[STARTED_S], replica.replica_id.unique_id
