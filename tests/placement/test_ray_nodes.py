"""Seating on real Ray: several raylets on one machine with logical GPUs."""

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import PlacementGroup, placement_group

from placement.cli import main
from placement.nodes import NoSeat, Seating, seat
from placement.ray_nodes import read_nodes

pytestmark = pytest.mark.engine
READY_S = 60


@pytest.fixture
def cluster_of():
    started = []

    def start(*gpus, types=()):
        cluster = Cluster()
        started.append(cluster)
        for index, count in enumerate(gpus):
            resources = {f"n{index}": 1} | {
                f"accelerator_type:{name}": 1 for name in types[index : index + 1]
            }
            cluster.add_node(num_cpus=8, num_gpus=count, include_dashboard=False, resources=resources)
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        return cluster

    yield start
    ray.shutdown()
    for cluster in started:
        cluster.shutdown()


def create_group(node_of_rank: tuple[str, ...], bundles: list[dict[str, float]]) -> PlacementGroup:
    """A group whose bundle r is on the node of rank r."""
    selectors = [{"ray.io/node-id": node_id} for node_id in node_of_rank]
    return placement_group(bundles, strategy="PACK", bundle_label_selector=selectors)


def nodes_of_group(group: PlacementGroup) -> tuple[str, ...]:
    """Node of each bundle, in bundle order, as Ray placed it."""
    table = ray.util.placement_group_table(group)
    return tuple(table["bundles_to_node_id"][index] for index in range(group.bundle_count))


def placed(tensor, stages):
    """Seat one replica on what is free, and have Ray place it."""
    seating = seat(read_nodes(), tensor, stages)
    assert isinstance(seating, Seating), seating
    (ranks,) = seating.nodes
    group = create_group(ranks, [{"CPU": 1, "GPU": 1}, *[{"GPU": 1}] * (len(ranks) - 1)])
    assert group.wait(READY_S)
    assert nodes_of_group(group) == ranks
    return group, ranks


def groups_are_whole(ranks, tensor):
    return all(len(set(ranks[first : first + tensor])) == 1 for first in range(0, len(ranks), tensor))


@pytest.mark.parametrize(("gpus", "nodes_used"), [((8,), 1), ((4, 4), 2), ((2, 2, 2, 2), 4)])
def test_pp4_tp2_is_placed_on_one_two_and_four_nodes(cluster_of, gpus, nodes_used):
    cluster_of(*gpus)
    _, ranks = placed(2, 4)
    assert len(set(ranks)) == nodes_used
    assert groups_are_whole(ranks, 2)
    refusal = seat(read_nodes(), 2, 4)
    assert isinstance(refusal, NoSeat)
    assert "4 missing" in refusal.reason


def test_a_fragmented_cluster_is_refused_and_a_whole_node_heals_it(cluster_of):
    cluster = cluster_of(2, 2, 2)
    holders = [create_group((node.node_id,), [{"GPU": 1}]) for node in read_nodes()]
    assert all(holder.wait(READY_S) for holder in holders)
    refusal = seat(read_nodes(), 2, 1)
    assert isinstance(refusal, NoSeat)
    assert "scattered" in refusal.reason
    cluster.add_node(num_cpus=8, num_gpus=2)
    cluster.wait_for_nodes()
    _, ranks = placed(2, 1)
    assert groups_are_whole(ranks, 2)


def test_a_lost_node_is_named_as_missing_and_its_replacement_takes_the_replica(cluster_of):
    cluster = cluster_of(4)
    lost = cluster.add_node(num_cpus=8, num_gpus=4)
    cluster.wait_for_nodes()
    group, _ = placed(2, 4)
    ray.util.remove_placement_group(group)
    cluster.remove_node(lost)
    refusal = seat(read_nodes(), 2, 4)
    assert isinstance(refusal, NoSeat)
    assert "missing" in refusal.reason
    cluster.add_node(num_cpus=8, num_gpus=4)
    cluster.wait_for_nodes()
    _, ranks = placed(2, 4)
    assert len(set(ranks)) == 2


@pytest.fixture
def file(tmp_path):
    """PP=4 x TP=2 under PACK."""
    file = tmp_path / "config.yaml"
    grid = "{pipeline_parallel_size: 4, tensor_parallel_size: 2, strategy: PACK, bundles: [%s]}"
    bundles = ", ".join(["{CPU: 1, GPU: 1}"] * 8)
    model = "{name: m, source: meta-llama/Llama-3.3-70B-Instruct}"
    rest = "engine: {max_model_len: 4096}, open_without_keys: true"
    body = f"{{model: {model}, parallel: {grid % bundles}, {rest}}}"
    entrance = "http_options: {host: 127.0.0.1}"
    file.write_text(f"{entrance}\napplications: [{{name: a, import_path: a:b, args: {body}}}]")
    return file


def test_gpus_of_another_type_have_no_seats(cluster_of, file, capsys):
    cluster = cluster_of(8, 8, types=("A10", "H100"))
    h100 = next(node.node_id for node in read_nodes() if node.gpu_types == ("H100",))
    ray.shutdown()
    command = ["check", str(file), "--cluster", cluster.address, "--workload", "256/32@1"]
    assert main([*command, "--hardware", "8xh100"]) == 0
    said = capsys.readouterr().out
    assert "cluster: not counted: 8 GPUs, A10 and not h100 (--hardware); Ray may choose them" in said
    assert "cluster: replica 1: " + " ".join(f"{rank}@{h100[:8]}" for rank in range(8)) in said
    assert "no type" not in said
    assert main([*command, "--hardware", "8xh200"]) == 1
    said = capsys.readouterr().out
    assert "cluster: not counted: 16 GPUs, A10, H100 and not h200" in said
    assert "NO SEAT" in said


def test_check_against_a_live_cluster_names_seats_or_what_is_missing(cluster_of, file, tmp_path, capsys):
    cluster = cluster_of(4, 4)
    ray.shutdown()
    command = ["check", str(file), "--cluster", cluster.address, "--workload", "256/32@1"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "cluster: replica 1: 0@" in said
    assert "a seating that keeps TP groups whole exists; Ray may choose another" in said
    assert "Ray reports no type of 8 GPUs: not checked that they are h100" in said
    together = tmp_path / "together.yaml"
    together.write_text(file.read_text().replace("strategy: PACK", "strategy: STRICT_PACK"))
    assert main(["check", str(together), *command[2:]]) == 1
    assert "NO SEAT: STRICT_PACK, all on one node: replica 1 of 1" in capsys.readouterr().out
    hungry = tmp_path / "hungry.yaml"
    hungry.write_text(file.read_text().replace("{CPU: 1, GPU: 1}", "{CPU: 3, GPU: 1}"))
    assert main(["check", str(hungry), *command[2:]]) == 1
    assert "NO SEAT: replica 1 of 1: CPU: 3 on one node" in capsys.readouterr().out
    cluster.remove_node(cluster.worker_nodes.copy().pop())
    assert main(command) == 1
    assert "NO SEAT: replica 1 of 1 needs 4 groups of 2 GPUs" in capsys.readouterr().out
