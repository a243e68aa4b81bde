"""Seats of several applications: what one has, the next has not."""

from app.config import ApplicationConfig
from placement.nodes import NodeView
from placement.seats import Seats


def config(tensor=4, replicas=1, cpus=1, more=None, **sections):
    return ApplicationConfig.model_validate(
        {
            "model": {"name": "llama", "source": "meta-llama/Llama-3.3-70B-Instruct"},
            "parallel": {
                "tensor_parallel_size": tensor,
                "bundles": [{"CPU": cpus, "GPU": 1, **(more or {})}] * tensor,
                "strategy": "PACK",
            },
            "engine": {"max_model_len": 4096},
            "replicas": {"min": 1, "max": replicas},
            "open_without_keys": True,
            **sections,
        }
    )


def node(name, gpus, cpus=64, types=(), **resources):
    return NodeView(name, gpus, gpus, types, {"GPU": float(gpus), "CPU": float(cpus), **resources})


def test_the_gpus_of_one_application_are_not_anothers():
    seats = Seats([node("a", 8), node("b", 4)])
    assert seats.take(config(replicas=2), "h100").missing == ""
    assert seats.take(config(), "h100").missing == ""
    assert "0 fit, 1 missing" in seats.take(config(), "h100").missing


def test_nor_is_what_else_its_bundles_hold():
    seats = Seats([node("a", 8, cpus=12)])
    assert seats.take(config(cpus=2), "h100").missing == ""
    assert seats.take(config(cpus=2), "h100").missing == "replica 1 of 1: CPU: 2 on one node, 0 free"


def seats_told(seated):
    assert seated.missing == ""
    return [line for line in seated.lines if line.startswith("replica")]


def test_a_seat_has_room_for_all_that_its_bundle_holds():
    no_cpu, halves = node("a", 2, cpus=0), [node("b", 1, cpus=4), node("c", 1, cpus=4)]
    said = Seats([no_cpu, *halves]).take(config(tensor=2), "h100").missing
    assert said.startswith("of GPUs with what else a bundle holds beside them: replica 1 of 1")
    assert "a: 0, b: 1, c: 1" in said
    told = seats_told(Seats([no_cpu, *halves, node("d", 2, cpus=2)]).take(config(tensor=2), "h100"))
    assert told == ["replica 1: 0@d 1@d"]


def test_applications_leave_what_is_beside_the_seats_that_are_told():
    seats = Seats([node("a", 4, cpus=1), node("b", 4, cpus=4)])
    for _ in range(2):
        assert seats_told(seats.take(config(tensor=2), "h100")) == ["replica 1: 0@b 1@b"]
    assert seats.take(config(tensor=2), "h100").missing == "replica 1 of 1: CPU: 1 on one node, 0 free"


def test_one_bundle_that_asks_for_more_is_no_more_than_one():
    uneven = config(tensor=4)
    uneven.parallel.bundles[0]["CPU"] = 2
    assert Seats([node("a", 4, cpus=5)]).take(uneven, "h100").missing == ""
    assert "CPU" in Seats([node("a", 4, cpus=4)]).take(uneven, "h100").missing


def test_what_has_no_place_takes_none():
    seats = Seats([node("a", 8)])
    assert seats.take(config(tensor=8, replicas=2), "h100").missing
    assert seats.take(config(tensor=8), "h100").missing == ""


def test_gateways_and_schedulers_get_what_the_engines_leave():
    hungry = config(more={"slot": 1}, control_resources={"slot": 1}, gateway={"replicas": 2})
    assert Seats([node("a", 8, slot=8.0)]).take(hungry, "h100").missing == ""
    said = Seats([node("a", 8, slot=7.0)]).take(hungry, "h100").missing
    assert said == "gateways and schedulers: 4 ask for 1 slot, there is room for 3"


def test_those_of_one_application_leave_less_to_the_next_also_on_nodes_without_its_gpus():
    asks = {"control_resources": {"slot": 1}, "gateway": {"replicas": 2}}
    seats = Seats([node("a", 8, types=("H100",)), node("b", 8, types=("A10G",), slot=6.0)])
    assert seats.take(config(**asks), "h100").missing == ""
    assert "there is room for 2" in seats.take(config(**asks), "h100").missing


def test_an_a100_that_does_not_state_its_size_is_not_said_to_have_80_gb():
    said = "Ray reports no size of 8 A100: not checked that they have 80 GB"
    sized = node("b", 8, types=("A100", "A100-80G"))
    assert said in Seats([node("a", 8, types=("A100",)), sized]).take(config(), "a100").lines
    assert not any("size" in line for line in Seats([sized]).take(config(), "a100").lines)
    assert not any(
        "size" in line for line in Seats([node("c", 8, types=("H100",))]).take(config(), "h100").lines
    )


def test_the_seats_are_told():
    said = Seats([node("a" * 40, 4), node("b" * 40, 4)]).take(config(replicas=2), "h100").lines
    assert "Ray reports no type of 8 GPUs: not checked that they are h100" in said
    assert "a seating that keeps TP groups whole exists; Ray may choose another:" in said
    assert [line.split("@")[1][:8] for line in said if line.startswith("replica")] == ["a" * 8, "b" * 8]
