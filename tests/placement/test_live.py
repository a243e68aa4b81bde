"""The command against a real Ray of its own: eight logical GPUs, and actors named and placed like vLLM's."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / "serve_configs" / "topology-cpu.yaml"
# Bundles in another order than ranks: the table must show what is, not what was asked for.
BUNDLE_OF_RANK = [1, 0, 3, 2, 5, 4, 7, 6]
START_TIMEOUT_S = 120

# A cluster of its own: no other session's address, and a token that nobody else has.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}

CLUSTER = """
import sys
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class RayWorkerProc:
    def ready(self):
        return True


with_dashboard, bundles = sys.argv[1] == "True", list(map(int, sys.argv[2:]))
ray.init(address="local", num_cpus=1, num_gpus=8, include_dashboard=with_dashboard, log_to_driver=False)
group = placement_group([{"GPU": 1}] * 8, strategy="STRICT_PACK", name="SERVE_REPLICA::llm#Engine#ab12c")
workers = [
    ray.remote(RayWorkerProc)
    .options(
        name=f"vllm_Worker_ab12c_TP{rank % 2}_PP{rank // 2}",
        num_cpus=0,
        num_gpus=1,
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle),
    )
    .remote()
    for rank, bundle in enumerate(bundles)
]
ray.get([worker.ready.remote() for worker in workers])
print("READY", ray.get_runtime_context().gcs_address, group.id.hex(), flush=True)
sys.stdin.read()
ray.shutdown()
"""


@pytest.fixture(params=[True, False], ids=["dashboard", "no-dashboard"])
def running(request) -> Iterator[tuple[str, str, bool]]:
    """Address, placement group, and whether the state API answers; the cluster ends with its stdin."""
    command = [sys.executable, "-c", CLUSTER, str(request.param), *map(str, BUNDLE_OF_RANK)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("READY"))
        _, address, group = line.split()
        yield address, group, request.param
    finally:
        try:
            process.communicate(timeout=START_TIMEOUT_S)
        finally:
            process.kill()


def show(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "placement", "show", str(CONFIG), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, env=ENVIRONMENT)


@pytest.mark.engine
@pytest.mark.timeout(2 * START_TIMEOUT_S)
def test_the_command_shows_where_the_ranks_of_a_running_engine_are(running, tmp_path):
    address, group, observed = running
    file = tmp_path / "plan.json"
    shown = show("--address", address, "--json", str(file))
    assert shown.returncode == 0, shown.stderr
    (document,) = json.loads(file.read_text())
    (replica,) = document["replicas"]
    assert replica["application"] == ("llm" if observed else None)
    for rank, worker in enumerate(replica["ranks"]):
        assert worker["actor"] == f"vllm_Worker_ab12c_TP{rank % 2}_PP{rank // 2}"
        assert worker["actor"] in shown.stdout
        assert worker["bundle"] == (BUNDLE_OF_RANK[rank] if observed else None)
        assert worker["placement_group"] == (group if observed else None)
        assert (worker["node"] is not None) == observed


@pytest.mark.engine
def test_an_address_without_a_cluster_is_told_and_no_plan_is_printed():
    shown = show("--address", "127.0.0.1:1")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("--address: 127.0.0.1:1: ")
