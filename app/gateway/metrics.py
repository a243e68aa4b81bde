"""The engines' own metrics, each sample labelled with its replica."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

import aiohttp
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from app.contract import EnginePort
from app.gateway.engines import ask

# A scrape waits no longer for an engine than this; a silent engine is left out.
SCRAPE_TIMEOUT_S = 2.0
# vLLM's own, and what app/engine/gpus.py adds.
PASSED_ON = ("vllm:", "promiseserve_")


async def engine_metrics(http: aiohttp.ClientSession, engines: Iterable[EnginePort]) -> str:
    """The figures of all engines as one Prometheus text."""
    engines = list(engines)
    texts = await asyncio.gather(*(ask(http, engine, "/metrics", SCRAPE_TIMEOUT_S) for engine in engines))
    by_replica = {e.replica_id: (t or b"").decode() for e, t in zip(engines, texts, strict=True)}
    # Tens of milliseconds an engine, for which streams should not wait.
    return await asyncio.to_thread(merged, by_replica)


def merged(text_by_replica: dict[str, str]) -> str:
    """One family a name, whatever number of engines has it; of what they show, vLLM's and ours."""
    families: dict[str, Metric] = {}
    for replica_id, text in text_by_replica.items():
        for family in text_string_to_metric_families(text):
            if not family.name.startswith(PASSED_ON):
                continue
            target = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                target.samples.append(sample._replace(labels={**sample.labels, "replica": replica_id}))
    registry = CollectorRegistry()
    registry.register(_Fixed(families.values()))
    return generate_latest(registry).decode()


class _Fixed(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
