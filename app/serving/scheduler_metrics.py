"""The scheduler's state in Prometheus form; what a request adds at its end is in request_metrics.py."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from app.config import ApplicationConfig
from app.flow.autoscale import Decision, Reason
from app.flow.controller import Snapshot
from app.serving.request_metrics import RequestMetrics

# A second series for each one, which nobody reads.
disable_created_metrics()  # type: ignore[no-untyped-call]

# Seconds: from an idle engine to the longest wait that the default configuration allows.
QUEUE_WAIT_BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class SchedulerMetrics:
    """A registry of its own: one application, one set of figures."""

    def __init__(self, config: ApplicationConfig) -> None:
        self._registry = CollectorRegistry()
        self.requests = RequestMetrics(config, self._registry)
        self._queued = self._gauge("promiseserve_queue_depth", "Tickets that wait for an engine.", "class")
        capacity = self._gauge(
            "promiseserve_queue_capacity", "Tickets that may wait: `scheduler.max_queued`."
        )
        capacity.set(config.scheduler.max_queued)
        self._backlog = self._gauge("promiseserve_backlog_tokens", "Prompt tokens that wait for an engine.")
        self._drain_s = self._gauge("promiseserve_drain_seconds", "Predicted time to empty the queue.")
        self._starting = self._gauge("promiseserve_replicas_starting", "Engines that are on their way.")
        self._desired = self._gauge("promiseserve_replicas_desired", "Engines that are asked for.")
        self._wanted = self._gauge(
            "promiseserve_replicas_wanted", "Engines that the load asks for, unbounded."
        )
        self._reason = self._gauge(
            "promiseserve_scaling_reason", "1 for why so many are asked for.", "reason"
        )
        self._start_s = self._gauge(
            "promiseserve_engine_start_seconds", "Mean time that an engine takes to start."
        )
        self._in_flight = self._gauge("promiseserve_leases", "Leases that are held.")
        self._ready = self._gauge("promiseserve_replicas_ready", "Engines that may get leases.")
        self._by_replica = self._gauge("promiseserve_replica_places", "Places taken of an engine.", "replica")
        self._limits = self._gauge("promiseserve_replica_limit", "Places an engine has.", "replica")
        self._kv_use = self._gauge(
            "promiseserve_replica_kv_use_ratio", "KV cache in use, as the engine last said.", "replica"
        )
        self._kv_capacity = self._gauge(
            "promiseserve_replica_kv_capacity_tokens", "Size of the KV cache; 0 until it is known.", "replica"
        )
        self._kv_reserved = self._gauge(
            "promiseserve_replica_kv_reserved_tokens", "Prompt and expected output of its leases.", "replica"
        )
        self._revokes = Counter(
            "promiseserve_revokes",
            "Leases asked back for something urgent; taken is false where the answer had begun.",
            ["taken"],
            registry=self._registry,
        )
        for taken in ("true", "false"):
            self._revokes.labels(taken)
        self._queue_wait_s = Histogram(
            "promiseserve_queue_wait_seconds",
            "From a request's arrival to its lease.",
            ["class"],
            buckets=QUEUE_WAIT_BUCKETS_S,
            registry=self._registry,
        )

    def observe_queue_wait(self, class_name: str, seconds: float) -> None:
        self._queue_wait_s.labels(class_name).observe(max(0.0, seconds))

    def count_revoke(self, taken: bool) -> None:
        self._revokes.labels(str(taken).lower()).inc()

    def observe_scaling(self, decision: Decision, start_s: float) -> None:
        self._desired.set(decision.target)
        self._wanted.set(decision.wanted)
        self._start_s.set(start_s)
        for reason in Reason:
            self._reason.labels(reason.value).set(reason is decision.reason)

    def page(self, snapshot: Snapshot, now_s: float) -> str:
        """All of it as Prometheus reads it; takes milliseconds."""
        self._take_over(snapshot)
        self.requests.refresh(now_s)
        return generate_latest(self._registry).decode()

    def _take_over(self, snapshot: Snapshot) -> None:
        for class_name, queued in snapshot.queued_by_class.items():
            self._queued.labels(class_name).set(queued)
        self._backlog.set(snapshot.backlog_tokens)
        self._drain_s.set(snapshot.drain_s)
        self._starting.set(snapshot.replicas_starting)
        self._in_flight.set(snapshot.in_flight)
        self._ready.set(snapshot.replicas_ready)
        _replace(self._by_replica, snapshot.in_flight_by_replica)
        _replace(self._limits, snapshot.limit_by_replica)
        _replace(self._kv_use, snapshot.kv_use_by_replica)
        _replace(self._kv_capacity, snapshot.kv_capacity_tokens_by_replica)
        _replace(self._kv_reserved, snapshot.kv_reserved_tokens_by_replica)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, labels, registry=self._registry)


def _replace(gauge: Gauge, by_replica: Mapping[str, float]) -> None:
    """Replicas that are gone are no label any more."""
    gauge.clear()
    for replica_id, value in by_replica.items():
        gauge.labels(replica_id).set(value)
