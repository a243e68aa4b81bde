"""The page as Prometheus reads it, after some requests have ended."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from app.config import ApplicationConfig
from app.flow.endings import Ended
from app.flow.outcome import Outcome
from app.flow.ticket import Usage
from app.serving.request_metrics import MAX_TENANTS, RequestMetrics, window_name

CONFIG = ApplicationConfig.model_validate(
    {
        "model": {"name": "tiny", "source": "somebody/tiny"},
        "engine": {"device": "cpu", "max_model_len": 64},
        "api_keys": {"search": ["0" * 64]},
    }
)
SERVED = Ended(
    Outcome.COMPLETED,
    100.0,
    "interactive",
    "search",
    "chat",
    2.0,
    0.5,
    0.25,
    2.0,
    usage=Usage(7, 11, 0.5, 1.0),
)
GEN_AI = {
    "class": "interactive",
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "promiseserve",
    "gen_ai_request_model": "tiny",
}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> RequestMetrics:
    return RequestMetrics(CONFIG, registry)


def test_a_served_request_is_seen_in_every_figure(metrics: RequestMetrics, registry: CollectorRegistry):
    metrics.ended(SERVED)
    value = registry.get_sample_value
    for name, seconds in (("time_to_first_token", 0.5), ("time_per_output_token", 0.1)):
        assert value(f"gen_ai_server_{name}_seconds_sum", GEN_AI) == pytest.approx(seconds)
    assert value("gen_ai_server_request_duration_seconds_sum", {**GEN_AI, "error_type": ""}) == 2.0
    ended = {"class": "interactive", "outcome": "completed"}
    assert value("promiseserve_requests_ended_total", ended) == 1
    assert value("promiseserve_ttft_prediction_ratio_sum", {"class": "interactive"}) == 2.0
    tokens = {"tenant": "search", "type": "output"}
    assert value("promiseserve_tenant_tokens_total", tokens) == 11
    ttft = {"class": "interactive", "slo": "ttft"}
    assert value("promiseserve_slo_requests_total", {**ttft, "kept": "true"}) == 1
    metrics.refresh(101.0)
    assert value("promiseserve_slo_attainment_ratio", {**ttft, "window": "5m"}) == 1
    assert value("promiseserve_slo_error_budget_left_ratio", {**ttft, "window": "1h"}) == 1
    assert [one.promise for one in metrics.standings(101.0)] == ["answered", "answered", "ttft", "ttft"] + [
        "tpot"
    ] * 2


def test_a_window_that_has_passed_shows_nothing_and_the_longer_one_still_does(
    metrics: RequestMetrics, registry: CollectorRegistry
):
    metrics.ended(SERVED._replace(outcome=Outcome.FAILED, usage=None))
    labels = {"class": "interactive", "slo": "answered"}
    for now_s in (100.0, 1000.0):
        metrics.refresh(now_s)
    value = registry.get_sample_value
    assert value("promiseserve_slo_attainment_ratio", {**labels, "window": "5m"}) is None
    assert value("promiseserve_slo_attainment_ratio", {**labels, "window": "1h"}) == 0
    assert value("promiseserve_slo_error_budget_left_ratio", {**labels, "window": "1h"}) == pytest.approx(-99)


def test_a_refusal_has_a_duration_by_its_reason_and_no_latencies(
    metrics: RequestMetrics, registry: CollectorRegistry
):
    metrics.ended(Ended(Outcome.REJECTED_FULL, 100.0, "interactive", "search", "chat"))
    value = registry.get_sample_value
    count = "gen_ai_server_request_duration_seconds_count"
    assert value(count, {**GEN_AI, "error_type": "rejected_full"}) == 1
    assert value("gen_ai_server_time_to_first_token_seconds_count", GEN_AI) is None


def test_a_tenant_of_the_key_file_that_nobody_knew_at_the_start_is_counted_by_name(
    metrics: RequestMetrics, registry: CollectorRegistry
):
    for _ in range(2):
        metrics.ended(SERVED._replace(tenant="added-later"))
    ended = {"tenant": "added-later", "outcome": "completed"}
    assert registry.get_sample_value("promiseserve_tenant_requests_ended_total", ended) == 2


def test_labels_are_bounded_however_many_tenants_come(metrics: RequestMetrics, registry: CollectorRegistry):
    for number in range(1000):
        metrics.ended(SERVED._replace(tenant=f"tenant-{number}"))
    # Configured, and the last to come.
    metrics.ended(SERVED)
    metrics.ended(Ended(Outcome.COMPLETED, 100.0))
    tenants = {
        sample.labels["tenant"]
        for family in registry.collect()
        for sample in family.samples
        if "tenant" in sample.labels
    }
    assert {"tenant-0", "search", "other"} < tenants
    assert len(tenants) == MAX_TENANTS + len({"other"})
    other = {"tenant": "other", "outcome": "completed"}
    assert registry.get_sample_value("promiseserve_tenant_requests_ended_total", other) == 1001 - MAX_TENANTS
    unknown = {"class": "unknown", "outcome": "completed"}
    assert registry.get_sample_value("promiseserve_requests_ended_total", unknown) == 1


def test_counters_begin_at_zero(metrics: RequestMetrics, registry: CollectorRegistry):
    labels = {"class": "batch", "outcome": "evicted_no_engine"}
    assert registry.get_sample_value("promiseserve_requests_ended_total", labels) == 0
    labels = {"class": "batch", "slo": "e2e", "kept": "false"}
    assert registry.get_sample_value("promiseserve_slo_requests_total", labels) == 0


@pytest.mark.parametrize(
    ("seconds", "name"), [(300, "5m"), (3600.0, "1h"), (90, "90s"), (7200, "2h"), (0.5, "0.5s")]
)
def test_a_window_is_named_as_prometheus_writes_a_duration(seconds, name):
    assert window_name(seconds) == name
