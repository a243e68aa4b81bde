"""The grid: who holds which layers, in which bundle, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.shapes import ModelShape, known_shape
from placement.topology import Bundle, Problem, Topology

LLAMA_70B = ModelShape(layers=80, heads=64, kv_heads=8, ffn=28672)
sizes = st.integers(1, 8)


@st.composite
def grids(draw: st.DrawFn) -> tuple[Topology, int, list[int] | None]:
    """A grid, a number of layers that fills its stages, and a partition of them or None."""
    topology = Topology(draw(sizes), draw(sizes))
    stages = topology.pipeline_parallel_size
    if draw(st.booleans()):
        partition = draw(st.lists(st.integers(1, 40), min_size=stages, max_size=stages))
        return topology, sum(partition), partition
    return topology, draw(st.integers(stages, 200)), None


def gpus(count: int) -> list[Bundle]:
    return [{"CPU": 1.0, "GPU": 1.0}] * count


def problems(
    topology: Topology,
    bundles: list[Bundle],
    *,
    needs_gpu: bool = True,
    partition: list[int] | None = None,
    shape: ModelShape | None = None,
) -> list[Problem]:
    return list(
        topology.problems(bundles=bundles, needs_gpu=needs_gpu, layer_partition=partition, shape=shape)
    )


@given(grids())
def test_the_stages_cover_every_layer_once_and_in_order(grid):
    topology, layers, partition = grid
    for tensor_rank in range(topology.tensor_parallel_size):
        column = [rank for rank in topology.grid(layers, partition) if rank.tensor_rank == tensor_rank]
        covered = [layer for rank in column for layer in range(rank.first_layer, rank.last_layer + 1)]
        assert covered == list(range(layers))


@given(grids())
def test_rank_and_bundle_are_stage_times_tp_plus_tensor_rank(grid):
    topology, layers, partition = grid
    ranks = list(topology.grid(layers, partition))
    assert [rank.index for rank in ranks] == list(range(topology.ranks))
    assert [rank.bundle for rank in ranks] == list(range(topology.ranks))
    assert all(rank.index == rank.stage * topology.tensor_parallel_size + rank.tensor_rank for rank in ranks)


@given(grids())
def test_the_ranks_of_a_stage_hold_the_same_layers(grid):
    topology, layers, partition = grid
    ranges = {(rank.stage, rank.first_layer, rank.last_layer) for rank in topology.grid(layers, partition)}
    assert len(ranges) == topology.pipeline_parallel_size


@given(layers=st.integers(1, 200), stages=sizes)
def test_without_a_partition_stages_differ_by_one_layer_at_most(layers, stages):
    counts = Topology(stages, 1).layer_counts(layers)
    assert sum(counts) == layers
    assert max(counts) - min(counts) <= 1


@pytest.mark.engine
@settings(deadline=None)  # The first example imports vLLM.
@given(layers=st.integers(1, 200), stages=sizes)
def test_the_even_split_is_the_one_that_vllm_makes(layers, stages):
    from vllm.distributed.utils import get_pp_indices

    indices = [get_pp_indices(layers, stage, stages) for stage in range(stages)]
    assert Topology(stages, 1).layer_counts(layers) == [end - start for start, end in indices]


def test_llama_70b_over_eight_gpus_is_the_plans_table():
    rows = [(r.index, r.stage, r.first_layer, r.last_layer, r.tensor_rank) for r in Topology(4, 2).grid(80)]
    assert rows == [
        (0, 0, 0, 19, 0),
        (1, 0, 0, 19, 1),
        (2, 1, 20, 39, 0),
        (3, 1, 20, 39, 1),
        (4, 2, 40, 59, 0),
        (5, 2, 40, 59, 1),
        (6, 3, 60, 79, 0),
        (7, 3, 60, 79, 1),
    ]


@given(topology=st.builds(Topology, sizes, sizes))
def test_a_gpu_bundle_a_rank_is_accepted(topology):
    assert problems(topology, gpus(topology.ranks)) == []


@given(topology=st.builds(Topology, sizes, sizes), count=st.integers(1, 64))
def test_any_other_number_of_bundles_is_refused(topology, count):
    refused = [p for p in problems(topology, gpus(count)) if p.field == ("parallel", "bundles")]
    assert bool(refused) == (count != topology.ranks)


@pytest.mark.parametrize("amount", [0, 0.5, 2])
def test_a_gpu_rank_takes_exactly_one_gpu(amount):
    (problem,) = problems(Topology(1, 2), [{"GPU": 1.0}, {"GPU": amount}])
    assert problem.field == ("parallel", "bundles", 1, "GPU")
    assert problem.value == amount
    assert "exactly one GPU" in problem.reason


def test_a_single_rank_on_a_cpu_needs_no_gpu():
    assert problems(Topology(1, 1), [{"CPU": 1.0}], needs_gpu=False) == []


def test_several_ranks_on_cpus_need_logical_gpus():
    assert len(problems(Topology(2, 1), [{"CPU": 1.0}, {"CPU": 1.0}], needs_gpu=False)) == 2


def test_a_partition_of_all_layers_is_accepted():
    assert problems(Topology(4, 2), gpus(8), partition=[19, 21, 21, 19], shape=LLAMA_70B) == []


@pytest.mark.parametrize(
    ("partition", "reason"),
    [
        ([40, 40], "2 stages, but pipeline_parallel_size is 4"),
        ([80, 0, 0, 0], "without a layer"),
        ([20, 20, 20, 19], "sums to 79, but the model has 80 layers"),
    ],
)
def test_a_partition_that_does_not_fit_is_refused(partition, reason):
    (problem,) = problems(Topology(4, 2), gpus(8), partition=partition, shape=LLAMA_70B)
    assert problem.field == ("parallel", "layer_partition")
    assert problem.value == partition
    assert reason in problem.reason


def test_more_stages_than_layers_are_refused():
    shape = ModelShape(layers=2, heads=1, kv_heads=1)
    (problem,) = problems(Topology(3, 1), gpus(3), shape=shape)
    assert (problem.field, problem.value) == (("parallel", "pipeline_parallel_size"), 3)
    assert "2 layers" in problem.reason


@given(tp=st.integers(1, 64))
def test_tensor_ranks_must_divide_heads_and_feed_forward_and_divide_or_multiply_kv_heads(tp):
    found = problems(Topology(1, tp), gpus(tp), shape=LLAMA_70B)
    assert len(found) == (64 % tp != 0) + (8 % tp != 0 and tp % 8 != 0) + (28672 % tp != 0)
    assert all(problem.field == ("parallel", "tensor_parallel_size") for problem in found)


def test_the_catalogue_knows_the_served_models_and_no_other():
    assert known_shape("meta-llama/Meta-Llama-3-70B-Instruct") == LLAMA_70B
    assert known_shape("somebody/unknown") is None
