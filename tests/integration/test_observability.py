"""What an operator sees of a real application: spans that add up, panels and alerts with data."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.integration.cluster import Cluster, wait_until
from tests.integration.otlp import Collector, Received

pytestmark = pytest.mark.engine

MODEL = "tiny-llama"
LIMIT = 4
KEY = "sk-gold"
HEADERS = {"authorization": f"Bearer {KEY}"}
# The bar: what the spans of a request account for, of what its client measured.
ATTRIBUTED_WITHIN = 0.05
ATTRIBUTED_SHARE = 0.95
TOKENS = 64


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector.started() as collector:
        yield collector


@pytest.fixture(scope="module")
def app(cluster: Cluster, collector: Collector):
    cluster.deploy(
        "smollm2-cpu.yaml",
        model={"name": MODEL, "source": "embedded:tiny-llama"},
        engine={"dtype": "float32", "max_num_seqs": LIMIT, "cpu_kv_cache_gib": 1},
        scheduler={"requests_per_replica": LIMIT},
        api_keys={"gold": [hashlib.sha256(KEY.encode()).hexdigest()]},
        tracing={"otlp_traces_endpoint": collector.endpoint},
    )
    yield cluster
    cluster.remove()


def stream(app: Cluster, tokens: int = TOKENS, **options: object) -> tuple[str, float]:
    """The trace that the client began, and the seconds from its first byte out to its last byte in."""
    trace_id = secrets.token_hex(16)
    body = {"model": MODEL, "prompt": "hello", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    traceparent = f"00-{trace_id}-{secrets.token_hex(8)}-01"
    with httpx.Client(headers=HEADERS | {"traceparent": traceparent}, timeout=60) as client:
        started_s = time.perf_counter()
        with client.stream("POST", f"{app.url}/v1/completions", json=body | options) as answer:
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
    wait_until(lambda: len(collector.trace(measured[-1][0])) >= 7, 20, "spans")
    time.sleep(2)
    gaps = []
    for trace_id, client_s in measured:
        own = own_seconds(collector.trace(trace_id))
        print(f"{client_s:.4f}", {k: round(v, 4) for k, v in own.items()})
        gaps.append(
            abs(1 - sum(own[n] for n in ("queue", "lease", "network", "prefill", "decode")) / client_s)
        )
    print(sorted(gaps))
