"""What each request's end adds to the figures; the names and buckets of OpenTelemetry's GenAI conventions
where there are some (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.config import ApplicationConfig
from app.flow.endings import Ended
from app.flow.outcome import Outcome
from app.flow.predictor import MIN_TTFT_S
from app.flow.slo import PROMISES, SloRecord, Standing

TTFT_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TPOT_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION_BUCKETS_S = tuple(0.01 * 2**power for power in range(14))
# Actual over predicted: 1 is right, above it the prediction was too hopeful.
RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 10.0)
GEN_AI_LABELS = ("class", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
PROVIDER = "promiseserve"
# Of an adopted lease nothing is known.
UNKNOWN_CLASS = "unknown"
# Keys come and go while we serve, and with them tenants; each is up to twenty series.
MAX_TENANTS = 100
OTHER_TENANTS = "other"
_TEXT = {True: "true", False: "false"}


class RequestMetrics:
    """Counts ended requests and judges their promises; the configuration bounds every set of labels,
    `MAX_TENANTS` that of the tenants.

    Each set of labels is looked up once (`cache`): a look-up costs more than the counting.
    """

    def __init__(self, config: ApplicationConfig, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._model = config.model.name
        # Those that are configured have their label whoever comes first.
        self._tenants = {*config.api_keys, *config.flow.tenants}
        self._slo = SloRecord(config.flow)
        self._ttft_s = self._latency(
            "time_to_first_token", "From arrival to the first token.", TTFT_BUCKETS_S
        )
        self._tpot_s = self._latency(
            "time_per_output_token", "Mean gap between the tokens of an answer.", TPOT_BUCKETS_S
        )
        self._duration_s = self._latency(
            "request_duration", "From arrival to the end, however it ended.", DURATION_BUCKETS_S, "error_type"
        )
        self._ended = self._counter("requests_ended", "Requests by outcome.", "class", "outcome")
        self._output_tokens = Counter(
            "promiseserve_output_tokens", "Tokens that engines made.", registry=registry
        )
        self._tenant_ended = self._counter(
            "tenant_requests_ended", "Requests of a tenant by outcome.", "tenant", "outcome"
        )
        self._tenant_tokens = self._counter(
            "tenant_tokens", "Tokens that engines read and made for a tenant.", "tenant", "type"
        )
        self._prediction = cache(
            Histogram(
                "promiseserve_ttft_prediction_ratio",
                "Actual over predicted time to the first token; both count as 10 ms at least.",
                ["class"],
                buckets=RATIO_BUCKETS,
                registry=registry,
            ).labels
        )
        self._judged = self._counter(
            "slo_requests", "Requests that a promise was judged by, and whether it was kept.",
            "class", "slo", "kept",
        )  # fmt: skip
        self._objective = self._gauge("objective", "Share of requests that is to keep a promise.", "class")
        self._attainment = self._gauge(
            "attainment", "Share of a window's requests that kept a promise.", "class", "slo", "window"
        )
        self._budget_left = self._gauge(
            "error_budget_left", "Share of a window's error budget that is left; below 0 it is overdrawn.",
            "class", "slo", "window",
        )  # fmt: skip
        self._begin(config)

    def ended(self, ended: Ended) -> None:
        """One request's end; called once for each."""
        outcome = ended.outcome
        class_name = ended.class_name or UNKNOWN_CLASS
        self._ended(class_name, outcome.label).inc()
        if ended.usage is not None:
            self._output_tokens.inc(ended.usage.output_tokens)
        if not ended.class_name:
            return
        self._of_tenant(ended)
        self._latencies(ended)
        for promise, kept in self._slo.add(ended):
            self._judged(class_name, promise, _TEXT[kept]).inc()

    def standings(self, now_s: float) -> list[Standing]:
        """Every promise of every class over the configured windows."""
        return self._slo.standings(now_s)

    def refresh(self, now_s: float) -> None:
        """Moves the windows' ends to now, just before they are read; what judged nothing shows nothing."""
        self._attainment.clear()
        self._budget_left.clear()
        for one in self._slo.standings(now_s):
            labels = (one.class_name, one.promise, window_name(one.window_s))
            self._attainment.labels(*labels).set(one.attainment)
            self._budget_left.labels(*labels).set(one.budget_left)

    def _begin(self, config: ApplicationConfig) -> None:
        """All counters from 0: what appears with its first event has no rate before the second."""
        for policy in config.flow.classes:
            self._objective.labels(policy.name).set(policy.objective)
            for outcome in Outcome:
                self._ended(policy.name, outcome.label)
            for promise in PROMISES:
                for kept in _TEXT.values():
                    self._judged(policy.name, promise, kept)

    def _of_tenant(self, ended: Ended) -> None:
        tenant = self._tenant_label(ended.tenant)
        self._tenant_ended(tenant, ended.outcome.label).inc()
        if ended.usage is not None:
            self._tenant_tokens(tenant, "input").inc(ended.usage.prompt_tokens)
            self._tenant_tokens(tenant, "output").inc(ended.usage.output_tokens)

    def _tenant_label(self, tenant: str) -> str:
        """Its name for the first that come, whichever source of keys they are from."""
        if tenant not in self._tenants:
            if len(self._tenants) >= MAX_TENANTS:
                return OTHER_TENANTS
            self._tenants.add(tenant)
        return tenant

    def _latencies(self, ended: Ended) -> None:
        labels = (ended.class_name, ended.operation, PROVIDER, self._model)
        error = "" if ended.outcome is Outcome.COMPLETED else ended.outcome.label
        self._duration_s(*labels, error).observe(max(0.0, ended.total_s))
        if ended.ttft_s is not None:
            self._ttft_s(*labels).observe(max(0.0, ended.ttft_s))
            if ended.predicted_ttft_s is not None:
                ratio = max(ended.ttft_s, MIN_TTFT_S) / max(ended.predicted_ttft_s, MIN_TTFT_S)
                self._prediction(ended.class_name).observe(ratio)
        if ended.tpot_s is not None:
            self._tpot_s(*labels).observe(ended.tpot_s)

    def _latency(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Callable[..., Histogram]:
        name, names = f"gen_ai_server_{name}_seconds", (*GEN_AI_LABELS, *labels)
        return cache(Histogram(name, text, names, buckets=buckets, registry=self._registry).labels)

    def _counter(self, name: str, text: str, *labels: str) -> Callable[..., Counter]:
        return cache(Counter(f"promiseserve_{name}", text, labels, registry=self._registry).labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"promiseserve_slo_{name}_ratio", text, labels, registry=self._registry)


def window_name(window_s: float) -> str:
    """As Prometheus writes a duration: `5m`, `1h`, `90s`."""
    for unit, seconds in (("h", 3600), ("m", 60)):
        if window_s % seconds == 0:
            return f"{window_s / seconds:g}{unit}"
    return f"{window_s:g}s"
