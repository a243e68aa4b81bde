"""One application for the tests of what strangers may do and of what operators see."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.integration.cluster import Cluster, tiny_llama
from tests.integration.environment import HOSTILE_KEYS
from tests.integration.otlp import Collector

# Leases of the one engine.
LIMIT = 4
BODY_TIMEOUT_S = 2.0


def entries(keys: dict[str, str]) -> str:
    return "".join(f"{tenant}:{sha256(key.encode()).hexdigest()}\n" for tenant, key in keys.items())


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with Collector.started() as collector:
        yield collector


@pytest.fixture(scope="session")
def key_file(cluster: Cluster) -> Path:
    path = cluster.folder / "keys"
    path.write_text(entries(HOSTILE_KEYS))
    return path


@pytest.fixture(scope="module")
def guarded(collector: Collector, cluster: Cluster, key_file: Path) -> Cluster:
    """Its clients need keys, its spans go to the collector."""
    cluster.deploy(
        "smollm2-cpu.yaml",
        api_keys_file=str(key_file),
        status={"open": False},
        **tiny_llama(max_num_seqs=LIMIT),
        scheduler={"requests_per_replica": LIMIT},
        limits={"body_timeout_s": BODY_TIMEOUT_S},
        tracing={"otlp_traces_endpoint": collector.endpoint},
    )
    return cluster
