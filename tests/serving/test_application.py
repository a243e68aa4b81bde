"""What a build refuses, and what it asks Ray for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from app.config_file import load_applications
from app.serving.application import build, engine_placement

REPOSITORY = Path(__file__).parents[2]


def arguments(name: str) -> dict:
    document = yaml.safe_load((REPOSITORY / "serve_configs" / name).read_text())
    return document["applications"][0]["args"]


@pytest.mark.parametrize("name", ["smollm2-cpu.yaml", "topology-cpu.yaml", "llama70b.yaml"])
def test_every_configuration_is_built_once_its_keys_are_there(name, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"blue:{'0' * 64}\n")
    given = arguments(name)
    build(given | ({"api_keys_file": str(keys)} if "api_keys_file" in given else {}))


def test_without_its_file_of_keys_nothing_starts(tmp_path):
    with pytest.raises(ValueError, match="api_keys_file: it can't be read: No such file"):
        build(arguments("llama70b.yaml") | {"api_keys_file": str(tmp_path / "none")})


def test_a_plan_that_the_stated_hardware_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"hardware: 4xh100 can't hold the plan: .*needs 8 GPUs"):
        build(arguments("llama70b.yaml") | {"hardware": "4xh100"})


def test_a_wrong_key_is_refused():
    with pytest.raises(ValidationError, match="modell"):
        build(arguments("llama70b.yaml") | {"modell": {}})


def test_the_70b_replica_reserves_eight_gpu_bundles_in_rank_order():
    (application,) = load_applications(REPOSITORY / "serve_configs/llama70b.yaml")
    placement = engine_placement(application.args)
    assert [bundle["GPU"] for bundle in placement["placement_group_bundles"]] == [1] * 8
    variables = placement["ray_actor_options"]["runtime_env"]["env_vars"]
    assert variables["VLLM_RAY_BUNDLE_INDICES"] == "0,1,2,3,4,5,6,7"


def control_plane(given: dict) -> dict[str, dict]:
    """What Ray is asked for by a replica of each deployment that computes nothing."""
    gateway = build(given)._bound_deployment
    scheduler = gateway.init_args[1]._bound_deployment
    return {one.name: one.ray_actor_options for one in (gateway, scheduler)}


def test_gateways_and_schedulers_ask_for_no_cpu():
    found = control_plane(arguments("smollm2-cpu.yaml"))
    assert {name: options["num_cpus"] for name, options in found.items()} == {"Gateway": 0, "Scheduler": 0}
    assert not any(options.get("resources") for options in found.values())


def test_gateways_and_schedulers_go_where_their_resource_is():
    found = control_plane(arguments("smollm2-cpu.yaml") | {"control_resources": {"control": 1}})
    assert {name: options["resources"] for name, options in found.items()} == {
        "Gateway": {"control": 1.0},
        "Scheduler": {"control": 1.0},
    }


@pytest.mark.parametrize("amount", [0, -1, float("inf"), float("nan"), "some"])
def test_an_amount_that_is_none_is_refused_by_its_field(amount):
    with pytest.raises(ValidationError, match=r"control_resources\.control"):
        build(arguments("smollm2-cpu.yaml") | {"control_resources": {"control": amount}})
