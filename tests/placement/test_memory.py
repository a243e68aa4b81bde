"""The memory model against published cases."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.hardware import GIB, find_gpu
from placement.memory import balanced_partition, plan_memory
from placement.models import find_model
from placement.plans import ParallelPlan

H100, LLAMA_70B = find_gpu("h100"), find_model("llama70b")


def test_the_published_70b_fp8_tp2_case_leaves_32_gib_for_the_cache():
    plan = ParallelPlan(2, weight_dtype="fp8", memory_utilization=0.9)
    measured = {"activation_gib": 4.84, "non_torch_gib": 0.55, "graphs_gib": 0.0}
    stage = plan_memory(LLAMA_70B, H100, plan, **measured).stages[0]
    assert stage.weight_bytes / GIB == pytest.approx(33.88, abs=0.1)
    assert stage.kv_bytes / GIB == pytest.approx(32.0, abs=0.1)


def test_weights_by_stage_count_embedding_and_head_where_they_are():
    stages = plan_memory(LLAMA_70B, H100, ParallelPlan(2, 4)).stages
    assert [round(stage.weight_bytes / 1e9, 2) for stage in stages] == [18.16, 17.11, 17.11, 18.16]


@pytest.mark.parametrize(
    ("plan", "tokens"),
    [(ParallelPlan(2, 4), 1.216e6), (ParallelPlan(8), 1.229e6), (ParallelPlan(4, 2), 1.229e6)],
)
def test_the_cache_holds_the_published_number_of_tokens(plan, tokens):
    assert plan_memory(LLAMA_70B, H100, plan, graphs_gib=0.0).kv_tokens == pytest.approx(tokens, rel=0.005)


def test_captured_graphs_are_taken_from_the_cache():
    plan = ParallelPlan(8)
    whole, left = (plan_memory(LLAMA_70B, H100, plan, graphs_gib=gib).stages[0] for gib in (0.0, 1.0))
    assert whole.kv_bytes - left.kv_bytes == GIB
    assert plan_memory(LLAMA_70B, H100, plan).stages[0] == left


def test_the_even_split_of_the_starting_plan_is_lopsided_and_the_balanced_one_is_not():
    plan = ParallelPlan(2, 4)
    assert plan_memory(LLAMA_70B, H100, plan).weight_imbalance == pytest.approx(0.061, abs=0.001)
    partition = balanced_partition(LLAMA_70B, plan)
    assert partition == [19, 21, 21, 19]
    balanced = plan_memory(LLAMA_70B, H100, replace(plan, layer_partition=tuple(partition)))
    assert balanced.weight_imbalance < 0.05


def test_a_model_that_does_not_fit_has_no_cache():
    assert not plan_memory(LLAMA_70B, H100, ParallelPlan(1)).fits


def test_kv_heads_are_replicated_when_there_are_more_ranks_than_heads():
    half = plan_memory(LLAMA_70B, H100, ParallelPlan(8)).stages[0].kv_bytes_per_token
    assert plan_memory(LLAMA_70B, H100, ParallelPlan(16)).stages[0].kv_bytes_per_token == half


@given(
    stages=st.sampled_from([1, 2, 4, 8]),
    tensor=st.sampled_from([1, 2, 4, 8]),
    name=st.sampled_from(["llama70b", "llama8b", "mixtral", "qwen72b"]),
)
def test_the_ranks_together_hold_every_parameter_once(stages, tensor, name):
    model = find_model(name)
    stored = plan_memory(model, H100, ParallelPlan(tensor, stages)).stages
    total = sum(stage.weight_bytes for stage in stored) * tensor
    replicated = 2 * model.layers * (model.norm_parameters_per_layer + model.router_parameters_per_layer)
    assert total == pytest.approx(2 * model.parameters + (tensor - 1) * replicated, rel=1e-3)


@given(st.integers(2, 16))
def test_a_balanced_partition_keeps_every_layer_and_every_stage(stages):
    partition = balanced_partition(LLAMA_70B, ParallelPlan(2, stages))
    assert partition is None or (sum(partition) == 80 and len(partition) == stages and min(partition) > 0)
