"""Seats: the rules hold for every cluster, and every refusal names what is missing."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.nodes import NodeView, NoSeat, Seating, gpu_types, may_be, seat


def nodes(*free, total=None):
    return [NodeView(f"node{index}", gpus, total or max(gpus, 8)) for index, gpus in enumerate(free)]


def test_a_replica_that_fits_stays_in_the_node_it_fills_best():
    assert seat(nodes(8, 4), 2, 2) == Seating((("node1",) * 4,))


def test_stages_cross_nodes_and_tensor_groups_do_not():
    assert seat(nodes(4, 4, total=4), 2, 4) == Seating((("node0",) * 4 + ("node1",) * 4,))


def test_a_replica_that_is_to_share_a_node_does_not_spread_over_two():
    refusal = seat(nodes(4, 4, total=4), 2, 4, one_node=True)
    assert isinstance(refusal, NoSeat)
    assert refusal.reason.startswith("STRICT_PACK, all on one node: replica 1 of 1")
    assert isinstance(seat(nodes(8, 4), 2, 4, one_node=True), Seating)


def test_scattered_gpus_do_not_make_a_tensor_group():
    refusal = seat(nodes(1, 1, 1, 1, total=2), 2, 1)
    assert isinstance(refusal, NoSeat)
    assert "4 free GPUs are scattered" in refusal.reason


def test_a_tensor_group_larger_than_any_node_is_refused_as_straddling():
    refusal = seat(nodes(4, 4, total=4), 8, 1)
    assert isinstance(refusal, NoSeat)
    assert "straddle" in refusal.reason


def test_the_second_replica_that_does_not_fit_is_named():
    refusal = seat(nodes(8), 2, 4, replicas=2)
    assert isinstance(refusal, NoSeat)
    assert "replica 2 of 2 needs 4 groups of 2 GPUs" in refusal.reason
    assert "node0: 0" in refusal.reason


def test_an_empty_cluster_is_refused():
    assert isinstance(seat([], 1, 1), NoSeat)


@pytest.mark.parametrize(
    ("resources", "gpu", "counts"),
    [
        (["accelerator_type:H100"], "h100", True),
        (["accelerator_type:A10"], "h100", False),
        (["accelerator_type:H200"], "h100", False),
        (["accelerator_type:A100"], "a100", True),
        (["accelerator_type:A100", "accelerator_type:A100-80G"], "a100", True),
        (["accelerator_type:A100", "accelerator_type:A100-40G"], "a100", False),
        (["accelerator_type:A10"], "generic", True),
        ([], "h100", True),
    ],
)
def test_gpus_that_ray_calls_something_else_are_not_counted(resources, gpu, counts):
    assert may_be(gpu_types(dict.fromkeys(["CPU", "GPU", *resources], 1.0)), gpu) is counts


@given(
    free=st.lists(st.integers(0, 8), min_size=1, max_size=12),
    tensor=st.sampled_from([1, 2, 4, 8]),
    stages=st.integers(1, 8),
    replicas=st.integers(1, 4),
)
def test_groups_stay_whole_and_no_gpu_is_used_twice(free, tensor, stages, replicas):
    seating = seat(nodes(*free), tensor, stages, replicas)
    if isinstance(seating, NoSeat):
        assert seating.reason
        return
    used = Counter(node_id for ranks in seating.nodes for node_id in ranks)
    assert all(used[f"node{index}"] <= gpus for index, gpus in enumerate(free))
    for ranks in seating.nodes:
        assert len(ranks) == tensor * stages
        groups = [ranks[stage * tensor : (stage + 1) * tensor] for stage in range(stages)]
        assert all(len(set(group)) == 1 for group in groups)
