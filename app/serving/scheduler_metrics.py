"""The scheduler's figures in Prometheus form."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from app.flow.autoscale import Decision, Reason
from app.flow.controller import Snapshot
from app.flow.outcome import Outcome

# Seconds: from an idle engine to the longest wait that the default configuration allows.
QUEUE_WAIT_BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class SchedulerMetrics:
    """A registry of its own: one application, one set of figures."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._queued = self._gauge("promiseserve_queue_depth", "Tickets that wait for an engine.", "class")
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
        self._by_replica = self._gauge("promiseserve_replica_leases", "Leases of an engine.", "replica")
        self._limits = self._gauge("promiseserve_replica_limit", "Leases an engine may have.", "replica")
        self._ended = Counter(
            "promiseserve_requests_ended", "Requests by outcome.", ["outcome"], registry=self._registry
        )
        self._ended_before: dict[Outcome, int] = {}
        self._output_tokens = Counter(
            "promiseserve_output_tokens", "Tokens that engines made.", registry=self._registry
        )
        self._revokes = Counter(
            "promiseserve_revokes",
            "Leases asked back for something urgent; taken is false where the answer had begun.",
            ["taken"],
            registry=self._registry,
        )
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

    def add_output_tokens(self, tokens: int) -> None:
        self._output_tokens.inc(tokens)

    def observe_scaling(self, decision: Decision, start_s: float) -> None:
        self._desired.set(decision.target)
        self._wanted.set(decision.wanted)
        self._start_s.set(start_s)
        for reason in Reason:
            self._reason.labels(reason.value).set(reason is decision.reason)

    def observe(self, snapshot: Snapshot) -> None:
        """Takes over the core's own counts, just before they are read."""
        for class_name, queued in snapshot.queued_by_class.items():
            self._queued.labels(class_name).set(queued)
        self._backlog.set(snapshot.backlog_tokens)
        self._drain_s.set(snapshot.drain_s)
        self._starting.set(snapshot.replicas_starting)
        self._in_flight.set(snapshot.in_flight)
        self._ready.set(snapshot.replicas_ready)
        self._by_replica.clear()
        for replica_id, leases in snapshot.in_flight_by_replica.items():
            self._by_replica.labels(replica_id).set(leases)
        self._limits.clear()
        for replica_id, limit in snapshot.limit_by_replica.items():
            self._limits.labels(replica_id).set(limit)
        for outcome, count in snapshot.ended.items():
            self._ended.labels(outcome.label).inc(count - self._ended_before.get(outcome, 0))
        self._ended_before = dict(snapshot.ended)

    def text(self) -> str:
        return generate_latest(self._registry).decode()

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(name, help_text, labels, registry=self._registry)
