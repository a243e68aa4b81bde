"""Configurations that are broken on purpose: `validate` finds what is wrong with each, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.servers import free_ports
from tests.documented import documented
from tests.integration.cluster import REPOSITORY, Cluster
from tests.integration.environment import server_environment
from tests.integration.validated import BROKEN, assert_complete, validate

pytestmark = [pytest.mark.engine, pytest.mark.long]

# What any machine keeps that runs the tests, but for what is broken.
PROMISES = {
    "prompt_tokens": 64,
    "output_tokens": 64,
    "latency_streams": 1,
    "requests_per_s": 2,
    "ttft_p50_ms": 5000,
    "ttft_p99_ms": 10000,
    "tpot_p50_ms": 1000,
    "tpot_p99_ms": 2000,
    "memory_share": 0.95,
    "load_imbalance": 0.5,
    "memory_imbalance": 0.5,
}
ENGINE = {"dtype": "float32", "max_model_len": 512, "max_num_seqs": 32, "cpu_kv_cache_gib": 1}


@contextmanager
def deployed(cluster: Cluster, **changes: dict[str, Any]) -> Iterator[Path]:
    """The tiny Llama with these sections changed; its configuration file."""
    sections = {
        "model": {"name": "tiny-llama", "source": "embedded:tiny-llama"},
        "engine": ENGINE | changes.pop("engine", {}),
        "promises": PROMISES | changes.pop("promises", {}),
    }
    cluster.deploy("smollm2-cpu.yaml", **sections, **changes)
    try:
        yield cluster.folder / "smollm2-cpu.yaml"
    finally:
        cluster.remove()


def test_a_kv_cache_that_can_not_hold_its_places_fails_and_only_that(cluster: Cluster, tmp_path: Path):
    # A token takes 8 layers x 2 (K, V) x 4 KV heads x 32 x 4 bytes: 1 GiB holds 131,072, not 64 x 4,096.
    with deployed(cluster, engine={"max_model_len": 4096, "max_num_seqs": 64}) as config:
        run = validate(config, tmp_path)
    assert_complete(run)
    assert (run.failing, run.status) == (["kv_tokens"], BROKEN)
    assert run.verdicts["kv_tokens"]["measured"] == 131_072
    assert run.verdicts["kv_tokens"]["promised"] == 64 * 4096


def test_a_limit_of_one_request_fails_the_rate_and_only_that(cluster: Cluster, tmp_path: Path):
    # One stream of 64 tokens takes a third of a second and more.
    with deployed(cluster, scheduler={"requests_per_replica": 1}, promises={"requests_per_s": 10}) as config:
        run = validate(config, tmp_path)
    assert_complete(run)
    assert (run.failing, run.status) == (["requests_per_s"], BROKEN)


def test_a_slow_rank_fails_the_balance_and_only_that(cluster: Cluster, tmp_path: Path):
    # Seven of eight layers, and with them most of the cache: what the ranks hold is not asked here.
    stages = {
        "pipeline_parallel_size": 2,
        "bundles": [{"CPU": 0.1, "GPU": 1}, {"GPU": 1}],
        "layer_partition": [7, 1],
    }
    # Long prompts: a step is arithmetic, not overhead. Equal stages differ by less than this, these by more.
    promises = {"prompt_tokens": 384, "output_tokens": 4, "requests_per_s": 1, "memory_imbalance": 2}
    promises["load_imbalance"] = 0.3
    with deployed(cluster, parallel=stages, promises=promises) as config:
        run = validate(config, tmp_path)
    assert_complete(run)
    assert (run.failing, run.status) == (["load_imbalance"], BROKEN)


def test_the_documented_command_starts_measures_and_stops(tmp_path: Path):
    config = tmp_path / "config.yaml"
    document = yaml.safe_load((REPOSITORY / "serve_configs/smollm2-cpu.yaml").read_text())
    (document["http_options"]["port"],) = free_ports(1)
    args = document["applications"][0]["args"]
    args |= {"model": {"name": "tiny-llama", "source": "embedded:tiny-llama"}, "promises": PROMISES}
    args["engine"] |= ENGINE
    config.write_text(yaml.safe_dump(document))
    command = documented("docs/validate.md", "python -m app validate").split()[1:]
    command[command.index("serve_configs/smollm2-cpu.yaml")] = str(config)
    environment = server_environment() | {"PYTHONPATH": str(REPOSITORY)}
    environment.pop("RAY_ADDRESS", None)
    run = subprocess.run(
        [sys.executable, *command, "--load-s=3", "--filling-s=3"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 fail" in run.stdout
    assert "processes left: none" in run.stderr
    assert json.loads((tmp_path / "report.json").read_text())["kept"] is True
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
