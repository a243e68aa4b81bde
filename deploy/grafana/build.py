"""Writes promiseserve.json: `python deploy/grafana/build.py`. tests/deploy/ holds the file against this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("promiseserve.json")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Grafana's grid is 24 wide: three panels a row.
WIDTH, HEIGHT = 8, 7
ANSWERED = '{error_type=""}'

Panel = tuple[str, str, list[tuple[str, str]]]


def quantile(share: float, histogram: str, matching: str = "") -> str:
    rates = f"sum by (le, class) (rate({histogram}_bucket{matching}[$__rate_interval]))"
    return f"histogram_quantile({share}, {rates})"


def rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


# Row by row: title, unit, and each expression with its legend.
ROWS: dict[str, list[Panel]] = {
    "Promises": [
        (
            "Kept in the last five minutes",
            "percentunit",
            [('promiseserve_slo_attainment_ratio{window="5m"}', "{{class}} {{slo}}")],
        ),
        (
            "Error budget left of the last hour",
            "percentunit",
            [('promiseserve_slo_error_budget_left_ratio{window="1h"}', "{{class}} {{slo}}")],
        ),
        (
            "Burn rate over five minutes (1: exactly the objective)",
            "none",
            [("class_slo:promiseserve_burn_rate:5m", "{{class}} {{slo}}")],
        ),
    ],
    "Traffic": [
        (
            "Requests by outcome",
            "reqps",
            [(rate("promiseserve_requests_ended_total", "outcome") + " > 0", "{{outcome}}")],
        ),
        (
            "Refused, share by class",
            "percentunit",
            [
                (
                    rate('promiseserve_requests_ended_total{outcome=~"rejected.*|evicted.*"}', "class")
                    + " / "
                    + rate("promiseserve_requests_ended_total", "class"),
                    "{{class}}",
                )
            ],
        ),
        (
            "Tokens",
            "none",
            [
                ("rate(promiseserve_output_tokens_total[$__rate_interval])", "made a second"),
                (rate("promiseserve_tenant_tokens_total", "tenant, type"), "{{tenant}} {{type}}"),
            ],
        ),
    ],
    "Latency": [
        (
            "Time to first token, P50 and P99",
            "s",
            [
                (quantile(0.5, "gen_ai_server_time_to_first_token_seconds"), "{{class}} P50"),
                (quantile(0.99, "gen_ai_server_time_to_first_token_seconds"), "{{class}} P99"),
            ],
        ),
        (
            "Time per output token, P50 and P99",
            "s",
            [
                (quantile(0.5, "gen_ai_server_time_per_output_token_seconds"), "{{class}} P50"),
                (quantile(0.99, "gen_ai_server_time_per_output_token_seconds"), "{{class}} P99"),
            ],
        ),
        (
            "Whole answers, P50 and P99",
            "s",
            [
                (quantile(0.5, "gen_ai_server_request_duration_seconds", ANSWERED), "{{class}} P50"),
                (quantile(0.99, "gen_ai_server_request_duration_seconds", ANSWERED), "{{class}} P99"),
            ],
        ),
    ],
    "Queue": [
        (
            "Waiting",
            "none",
            [("promiseserve_queue_depth", "{{class}}"), ("promiseserve_queue_capacity", "most")],
        ),
        ("Wait for a lease, P95", "s", [(quantile(0.95, "promiseserve_queue_wait_seconds"), "{{class}}")]),
        (
            "First token, actual over predicted",
            "none",
            [
                (
                    rate("promiseserve_ttft_prediction_ratio_sum", "class")
                    + " / "
                    + rate("promiseserve_ttft_prediction_ratio_count", "class"),
                    "{{class}} mean",
                ),
                (quantile(0.9, "promiseserve_ttft_prediction_ratio"), "{{class}} P90"),
            ],
        ),
    ],
    "Engines": [
        (
            "Places taken and their limit",
            "none",
            [
                ("promiseserve_replica_places", "{{replica}}"),
                ("promiseserve_replica_limit", "{{replica}} limit"),
            ],
        ),
        (
            "KV cache",
            "percentunit",
            [
                ("promiseserve_replica_kv_use_ratio", "{{replica}} in use"),
                (
                    "promiseserve_replica_kv_reserved_tokens / (promiseserve_replica_kv_capacity_tokens > 0)",
                    "{{replica}} reserved",
                ),
            ],
        ),
        (
            "Engines: ready, starting, asked for, and what the load asks for",
            "none",
            [
                ("promiseserve_replicas_ready", "ready"),
                ("promiseserve_replicas_starting", "starting"),
                ("promiseserve_replicas_desired", "asked for"),
                ("promiseserve_replicas_wanted", "by the load"),
            ],
        ),
        (
            "vLLM: running and waiting",
            "none",
            [
                ("sum by (replica) (vllm:num_requests_running)", "{{replica}} running"),
                ("sum by (replica) (vllm:num_requests_waiting)", "{{replica}} waiting"),
            ],
        ),
        (
            "vLLM: preemptions, and leases taken back",
            "ops",
            [
                (rate("vllm:num_preemptions_total", "replica"), "{{replica}}"),
                ("sum(rate(promiseserve_revokes_total[$__rate_interval]))", "asked back"),
            ],
        ),
        (
            "vLLM: prompt tokens found in the cache",
            "percentunit",
            [
                (
                    rate("vllm:prefix_cache_hits_total", "replica")
                    + " / "
                    + rate("vllm:prefix_cache_queries_total", "replica"),
                    "{{replica}}",
                )
            ],
        ),
    ],
    "Scaling": [
        ("Why so many engines", "none", [("promiseserve_scaling_reason > 0", "{{reason}}")]),
        ("Time that an engine takes to start", "s", [("promiseserve_engine_start_seconds", "mean")]),
        ("Predicted time to empty the queue", "s", [("promiseserve_drain_seconds", "all classes")]),
    ],
    "GPUs (no data on a CPU)": [
        ("Utilisation", "percentunit", [("promiseserve_gpu_utilization_ratio", "{{replica}} {{gpu}}")]),
        (
            "Memory in use",
            "percentunit",
            [
                (
                    "promiseserve_gpu_memory_used_bytes / promiseserve_gpu_memory_total_bytes",
                    "{{replica}} {{gpu}}",
                )
            ],
        ),
        ("GPUs measured", "none", [("promiseserve_gpus", "{{replica}}")]),
    ],
}


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"h": 1, "w": 24, "x": 0, "y": top}})
        for number, panel in enumerate(row):
            left, down = number % 3 * WIDTH, number // 3 * HEIGHT
            place = {"h": HEIGHT, "w": WIDTH, "x": left, "y": top + 1 + down}
            panels.append(_panel(*panel) | {"gridPos": place})
        top += 1 + (len(row) + 2) // 3 * HEIGHT
    for number, one in enumerate(panels, start=1):
        one["id"] = number
    return {
        "uid": "promiseserve",
        "title": "promiseserve",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }


def _panel(title: str, unit: str, lines: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
            for number, (expr, legend) in enumerate(lines)
        ],
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(dashboard(), indent=1) + "\n")
