import pytest

from placement.hardware import GPUS, find_gpu, parse_cluster


@pytest.mark.parametrize(
    ("text", "nodes", "per_node"),
    [("8xh100", 1, 8), ("2xH100", 1, 2), ("1024xh100", 128, 8), ("4x2xa100", 4, 2), ("16xb200", 2, 8)],
)
def test_a_cluster_is_read_as_nodes_of_gpus(text, nodes, per_node):
    cluster = parse_cluster(text)
    assert (cluster.nodes, cluster.gpus_per_node) == (nodes, per_node)


@pytest.mark.parametrize(
    "text", ["", "8", "h100", "8xh999", "0xh100", "9xh100", "0x8xh100", "-1xh100", "8 x h100"]
)
def test_a_cluster_that_cannot_be_is_refused(text):
    with pytest.raises(ValueError, match=r"^hardware: "):
        parse_cluster(text)
    with pytest.raises(ValueError, match=r"^--cluster: "):
        parse_cluster(text, "--cluster")


def test_every_gpu_states_its_source():
    assert all(gpu.source for gpu in GPUS.values())


def test_fp8_without_fp8_cores_runs_at_the_bf16_peak():
    assert find_gpu("a100").tflops("fp8") == find_gpu("a100").tflops("bfloat16")
