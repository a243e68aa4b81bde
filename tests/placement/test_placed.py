"""Workers joined to the grid by the names that vLLM gives them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve._private.common import DeploymentID, ReplicaID

from placement.live import bundle_of
from placement.placed import Replica, Worker, application_of, replicas
from placement.topology import Topology

sizes = st.integers(1, 4)


def named(name: str) -> Worker:
    return Worker(name, "10.0.0.1", "aa", 0)


def test_workers_are_sorted_by_engine_and_rank():
    workers = [named(f"vllm_Worker_{engine}_TP{t}_PP{p}") for engine in "ba" for t in (1, 0) for p in (1, 0)]
    found = replicas(workers, Topology(2, 2), "llm")
    assert [replica.engine for replica in found] == ["a", "b"]
    assert [worker.actor for worker in found[0].workers] == [
        "vllm_Worker_a_TP0_PP0",
        "vllm_Worker_a_TP1_PP0",
        "vllm_Worker_a_TP0_PP1",
        "vllm_Worker_a_TP1_PP1",
    ]


def test_a_rank_without_an_actor_is_shown_as_missing():
    worker = named("vllm_Worker_a_PP1")
    assert replicas([worker], Topology(2, 1), "llm") == [Replica("a", (None, worker))]


@pytest.mark.parametrize(
    "name",
    [
        "SERVE_PROXY_ACTOR",
        "vllm_Worker_a",  # one process
        "vllm_Worker_a_TP0",  # no stages
        "vllm_Worker_a_TP2_PP0",  # a wider grid
        "vllm_Worker_a_TP0_PP2",  # a longer one
    ],
)
def test_a_name_of_another_grid_is_left_out(name):
    assert replicas([named(name)], Topology(2, 2), "llm") == []


@pytest.mark.engine
@settings(deadline=None)  # The first example imports vLLM.
@given(pp=sizes, tp=sizes, data=st.data())
def test_the_rank_is_the_one_that_vllm_put_into_the_name(pp, tp, data):
    from vllm.v1.executor.ray_utils import build_actor_name

    rank = data.draw(st.integers(0, pp * tp - 1))
    worker = named(build_actor_name("ab12c", rank, tp, pp, 1))
    (replica,) = replicas([worker], Topology(pp, tp), "llm")
    assert replica.engine == "ab12c"
    assert [index for index, found in enumerate(replica.workers) if found is worker] == [rank]


def test_the_bundle_is_read_from_the_resources_of_its_group():
    resources = {"GPU_group_aa": 1.0, "GPU_group_3_aa": 1.0, "bundle_group_7_bb": 0.001}
    assert bundle_of(resources, "aa") == 3
    assert bundle_of(resources, "cc") is None
    assert bundle_of(None, None) is None


@pytest.mark.parametrize("application", ["llm", "a#b", "SERVE_REPLICA::x"])
def test_the_application_is_the_one_that_serve_put_into_the_name_of_the_group(application):
    replica = ReplicaID("ab12c", DeploymentID("Engine", application))
    assert application_of(replica.to_full_id_str()) == application


@pytest.mark.parametrize("name", ["", "mine", "SERVE_REPLICA::Engine#ab12c"])
def test_a_group_of_another_name_is_no_applications(name):
    assert application_of(name) is None


def test_engines_of_another_application_are_left_out_where_the_cluster_says_whose_they_are():
    workers = [
        Worker(f"vllm_Worker_{engine}_PP{stage}", "10.0.0.1", group, stage, application)
        for engine, group, application in [("a", "aa", "llm"), ("b", "bb", "other"), ("c", None, None)]
        for stage in range(2)
    ]
    found = replicas(workers, Topology(2, 1), "llm")
    assert [(replica.engine, replica.application) for replica in found] == [("a", "llm"), ("c", None)]
