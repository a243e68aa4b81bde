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


def test_the_seats_are_told():
    said = Seats([node("a" * 40, 4), node("b" * 40, 4)]).take(config(replicas=2), "h100").lines
    assert "Ray reports no type of 8 GPUs: not checked that they are h100" in said
    assert "a seating that keeps TP groups whole exists; Ray may choose another:" in said
    assert [line.split("@")[1][:8] for line in said if line.startswith("replica")] == ["a" * 8, "b" * 8]
