"""docs/metrics.md lists what is exported, row by row; vLLM's part is held against a real engine elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from app.config import ApplicationConfig
from app.engine.gpus import GpuCollector
from app.serving.scheduler_metrics import SchedulerMetrics
from tests.engine.test_gpus import FakeNvml

TABLE = Path(__file__).parents[1] / "docs" / "metrics.md"
CONFIG = ApplicationConfig.model_validate(
    {
        "model": {"name": "tiny", "source": "somebody/tiny"},
        "engine": {"device": "cpu", "max_model_len": 64},
        "api_keys": {"search": ["0" * 64]},
    }
)


def exported() -> list[str]:
    """A row for each metric, as the table has it."""
    rows = []
    # What a metric's labels are called is public only in its samples, and not all have some yet.
    for metric in SchedulerMetrics(CONFIG)._registry._collector_to_names:
        name = metric._name + ("_total" if isinstance(metric, Counter) else "")
        rows.append(row(name, metric._type, metric._labelnames, metric._documentation))
    gpus = CollectorRegistry()
    gpus.register(GpuCollector(FakeNvml(1)))
    for family in gpus.collect():
        labels = ["replica", *family.samples[0].labels]
        rows.append(row(family.name, family.type, labels, family.documentation))
    return rows


def row(name: str, kind: str, labels, text: str) -> str:
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |"


def test_the_table_lists_what_is_exported():
    listed = re.findall(r"^\| `(?:promiseserve|gen_ai)_.*$", TABLE.read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(exported())
