"""What an operator sees of a real application: spans that add up, panels and alerts with data."""

from __future__ import annotations

import re
import secrets
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.cluster import MODEL, REPOSITORY, Cluster, wait_until
from tests.integration.conftest import LIMIT
from tests.integration.environment import HOSTILE_KEYS
from tests.integration.otlp import Collector, Received
from tests.integration.prometheus import BINARY, Prometheus, alerts, panels, selectors

pytestmark = pytest.mark.engine

TENANT = "blue"
HEADERS = {"authorization": f"Bearer {HOSTILE_KEYS[TENANT]}"}
# The bar: what the spans of a request account for, of what its client measured.
ATTRIBUTED_WITHIN = 0.05
ATTRIBUTED_SHARE = 0.95
TOKENS = 128
# One for all threads: making one takes tens of milliseconds of the process, which others would be longer by.
CLIENT = httpx.Client(timeout=60)
# Panels and alerts that have nothing to say on a machine without one.
NEEDS_A_GPU = {"Utilisation", "Memory in use", "PromiseserveGpuMemoryFull"}


@pytest.fixture(scope="module")
def app(guarded: Cluster) -> Cluster:
    wait_until(guarded.at_rest, 30, "at rest after the tests before")
    return guarded


def stream(app: Cluster, tokens: int = TOKENS, **options: object) -> tuple[str, float]:
    """The trace that the client began, and the seconds from its first byte out to its last byte in."""
    trace_id = secrets.token_hex(16)
    body = {"model": MODEL, "prompt": "hello", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    traceparent = f"00-{trace_id}-{secrets.token_hex(8)}-01"
    headers = HEADERS | {"traceparent": traceparent}
    started_s = time.perf_counter()
    with CLIENT.stream("POST", f"{app.url}/v1/completions", json=body | options, headers=headers) as answer:
        answer.read()
    return trace_id, time.perf_counter() - started_s


def own_seconds(spans: list[Received]) -> dict[str, float]:
    """Each span's time beyond that of its children, by name; vLLM's own span repeats what ours say."""
    ours = [span for span in spans if span.name != "llm_request"]
    own: dict[str, float] = {}
    for span in ours:
        children = sum(one.seconds for one in ours if one.parent_id == span.span_id)
        own[span.name] = own.get(span.name, 0.0) + span.seconds - children
    return own


def test_the_spans_of_a_request_account_for_the_time_that_its_client_measured(
    app: Cluster, collector: Collector
):
    stream(app)
    with ThreadPoolExecutor(2 * LIMIT) as clients:
        # Alone, in a full engine, and with a queue before it.
        measured = [stream(app) for _ in range(8)]
        measured += clients.map(lambda _: stream(app), range(8 * LIMIT))
    expected = {"POST /v1/completions", "queue", "lease", "network", "prefill", "decode", "llm_request"}

    def arrived() -> bool:
        return all({one.name for one in collector.trace(id_)} == expected for id_, _ in measured)

    wait_until(arrived, 30, "all spans of all traces")
    parts = [own_seconds(collector.trace(trace_id)) for trace_id, _ in measured]
    shares = [
        sum(own[part] for part in ("queue", "lease", "network", "prefill", "decode")) / client_s
        for own, (_, client_s) in zip(parts, measured, strict=True)
    ]
    close = sum(abs(1 - share) <= ATTRIBUTED_WITHIN for share in shares)
    print(f"attributed: {close} of {len(shares)} within 5 %, median {statistics.median(shares):.4f}")
    assert close >= ATTRIBUTED_SHARE * len(shares), sorted(shares)
    # No part is negative: children lie within their parents, whatever process they come from.
    assert all(seconds > -0.005 for own in parts for seconds in own.values()), parts


def test_each_process_tells_its_part_of_one_trace(app: Cluster, collector: Collector):
    trace_id, _ = stream(app, tokens=4, service_tier="priority")
    wait_until(lambda: len(collector.trace(trace_id)) == 7, 30, "all spans")
    spans = collector.trace(trace_id)
    by_service = {(span.service.removeprefix("promiseserve-"), span.name) for span in spans}
    assert by_service == {
        ("gateway", "POST /v1/completions"),
        ("gateway", "lease"),
        ("gateway", "network"),
        ("scheduler", "queue"),
        ("engine", "prefill"),
        ("engine", "decode"),
        ("engine", "llm_request"),
    }
    [root] = [span for span in spans if span.name.startswith("POST")]
    told = root.attributes
    assert (told["gen_ai.operation.name"], told["gen_ai.request.model"]) == ("text_completion", MODEL)
    assert (told["promiseserve.tenant"], told["promiseserve.class"]) == (TENANT, "interactive")


def test_a_refusal_is_told_by_its_code(app: Cluster, collector: Collector):
    trace_id, _ = stream(app, tokens=10**6)
    wait_until(lambda: collector.trace(trace_id), 30, "the span")
    [span] = collector.trace(trace_id)
    assert span.attributes["error.type"] == "context_length_exceeded"
    assert span.attributes["http.response.status_code"] == 400


def load(app: Cluster, requests: int, **options: object) -> None:
    with ThreadPoolExecutor(2 * LIMIT) as clients:
        for tier in ("priority", "default", "flex"):
            # Several prompts, some of them again: hits and misses of the prefix cache.
            prompts = ["hello " * (20 + number % 3) for number in range(requests)]
            list(
                clients.map(
                    lambda p, tier=tier: stream(app, 8, prompt=p, service_tier=tier, **options), prompts
                )
            )


@pytest.fixture(scope="module")
def prometheus(app: Cluster) -> Iterator[Prometheus]:
    if BINARY is None:
        pytest.skip("needs the program prometheus (Debian: apt-get install prometheus)")
    with Prometheus.started(f"127.0.0.1:{app.http_port}") as prometheus:
        yield prometheus


def test_every_panel_of_the_dashboard_has_data(app: Cluster, prometheus: Prometheus):
    def silent() -> set[str]:
        return {title for title, lines in panels().items() if not all(map(prometheus.query, lines))}

    deadline_s = time.monotonic() + 40
    while (missing := silent() - NEEDS_A_GPU) and time.monotonic() < deadline_s:
        load(app, 8)
    assert missing == set()


def test_every_alert_reads_what_is_there(app: Cluster, prometheus: Prometheus):
    missing = {
        (alert, selector)
        for alert, expression in alerts().items()
        for selector in selectors(expression)
        if not prometheus.query(selector)
    }
    assert {alert for alert, _ in missing} <= NEEDS_A_GPU, missing
    assert all(map(selectors, alerts().values()))


def test_promises_that_are_broken_page(app: Cluster, prometheus: Prometheus):
    """That a healthy application pages nobody is promtool's (rules_test.yml): here a start under load, or the
    refusals of the tests before, may have broken some."""
    # None comes so soon: admitted, as the engine is idle, and late, or refused.
    load(app, 20, ttft_budget_s=0.001)
    wait_until(lambda: "PromiseserveBudgetBurnsFast" in prometheus.pages(), 20, "the page")
    [worst] = prometheus.query('topk(1, class_slo:promiseserve_burn_rate:5m{slo=~"ttft|answered"})')
    assert float(worst["value"][1]) > 14.4


def manifest_containers() -> list[dict]:
    found = []
    for name in ("one-node.yaml", "nodes.yaml"):
        document = yaml.safe_load((REPOSITORY / "deploy" / "kubernetes" / name).read_text())
        cluster = document["spec"]["rayClusterConfig"]
        groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
        found += [group["template"]["spec"]["containers"][0] for group in groups]
    return found


def test_what_kubernetes_probes_is_there_and_needs_no_token(app: Cluster):
    ports = {8000: app.http_port, 52365: app.agent_port}
    kinds = ("startupProbe", "livenessProbe", "readinessProbe")
    asked = {tuple(one[kind]["httpGet"].values()) for one in manifest_containers() for kind in kinds}
    for path, port in asked:
        assert httpx.get(f"http://127.0.0.1:{ports[port]}{path}", timeout=10).status_code == 200, path


def test_a_pod_that_ends_waits_for_the_leases_that_are_held(app: Cluster):
    hook = manifest_containers()[0]["lifecycle"]["preStop"]["exec"]["command"]
    assert "localhost:8000" in hook[-1]
    script = hook[-1].replace("localhost:8000", f"127.0.0.1:{app.http_port}").replace("sleep 5", "sleep 0")
    with ThreadPoolExecutor(1) as clients:
        streaming = clients.submit(stream, app, 400)
        wait_until(lambda: app.metric("promiseserve_leases") == 1, 20, "the lease", 0.02)
        subprocess.run([*hook[:-1], script], check=False, timeout=60)
        assert app.metric("promiseserve_leases") == 0
        # The client has its last byte when the lease is closed, or a moment later.
        streaming.result(timeout=5)


def test_the_table_of_the_engines_metrics_is_what_they_show(app: Cluster):
    text = httpx.get(f"{app.url}/metrics", timeout=10).text
    families = list(text_string_to_metric_families(text))
    shown = {family.name for family in families if family.name.startswith("vllm:")}
    assert not {family.name for family in families if family.name.endswith("_created")}
    table = (REPOSITORY / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(vllm:[\w:]+)`", table, re.M)) == shown
