"""Serve's autoscaling policy: the scheduler's queue depth, and nothing else, asks for engines."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

from app.flow.autoscale import desired_replicas


class QueueDepthPolicy:
    """Serve calls it in its controller; its delays and bounds are applied to what it returns."""

    def __init__(self, target_queue_depth: float) -> None:
        self._target_queue_depth = target_queue_depth

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        by_replica = (context.aggregated_metrics or {}).get("queue_depth", {})
        # Every replica passes on the scheduler's one figure; the largest is the newest word of a burst.
        queued = max(by_replica.values(), default=None)
        running = context.target_num_replicas
        return desired_replicas(queued, running, self._target_queue_depth), {}
