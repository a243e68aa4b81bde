"""Serve's request router for engines: a call is for one replica."""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class ReplicaRouter(RequestRouter):
    """Routes a call to the replica whose id is its first argument; to none when that one is gone.

    Calls go out as `handle.probe.remote(replica_id)`. While the replica is missing Serve asks
    again with a growing delay, so the caller bounds its wait.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        # Else Serve asks again at once, without a pause in which it could hear of the replica.
        pending_request.routing_context.should_backoff = True
        wanted = pending_request.args[0]
        return [[r for r in candidate_replicas if r.replica_id.unique_id == wanted]]
