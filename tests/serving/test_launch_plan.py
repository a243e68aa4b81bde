"""The launcher's decisions. That it starts and stops a real cluster is an engine test's matter."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
import ray

from app.config import ApplicationConfig, ReplicasConfig
from app.config_file import load_applications
from app.serving import launch_plan

REPOSITORY = Path(__file__).parents[2]


def config(bundles: list[dict[str, float]], *, device: str = "cpu", replicas: int = 1) -> ApplicationConfig:
    return ApplicationConfig.model_validate(
        {
            "model": {"name": "m", "source": "somewhere/else"},
            "parallel": {"bundles": bundles, "pipeline_parallel_size": len(bundles)},
            "engine": {"device": device, "max_model_len": 128},
            "replicas": {"max": replicas},
            "open_without_keys": True,
        }
    )


class TestResources:
    def test_cpu_engine_gets_a_logical_gpu_for_every_bundle_of_every_replica(self) -> None:
        found = launch_plan.resources(
            [config([{"CPU": 1, "GPU": 1}, {"GPU": 1}], replicas=3)], machine_cpus=2
        )
        assert found == launch_plan.Resources(cpus=3, gpus=6)

    def test_machine_is_never_told_to_be_smaller_than_it_is(self) -> None:
        assert launch_plan.resources([config([{"CPU": 1}])], machine_cpus=16) == launch_plan.Resources(16, 0)

    def test_real_gpus_are_left_to_ray(self) -> None:
        gpus = launch_plan.resources([config([{"CPU": 1, "GPU": 1}], device="gpu")], machine_cpus=2).gpus
        assert gpus is None

    def test_fractions_are_summed_before_they_are_rounded_up(self) -> None:
        found = launch_plan.resources([config([{"CPU": 0.1}], replicas=30)], machine_cpus=1)
        assert found.cpus == 3

    def test_applications_add_up(self) -> None:
        found = launch_plan.resources([config([{"CPU": 2, "GPU": 1}]), config([{"CPU": 2}])], machine_cpus=1)
        assert found == launch_plan.Resources(4, 1)

    def test_what_gateways_and_schedulers_ask_for_is_there_for_every_application(self) -> None:
        one = config([{"CPU": 1}]).model_copy(update={"control_resources": {"control": 0.5}})
        found = launch_plan.resources([one, one], machine_cpus=1)
        assert found.custom == {"control": launch_plan.CONTROL_REPLICAS}


class TestEnvironment:
    def test_ray_of_our_own_gets_a_token_and_haproxy(self) -> None:
        found = launch_plan.environment({"PATH": "/usr/bin"}, "/venv/bin", "secret")
        assert found["RAY_AUTH_MODE"] == "token"
        assert found["RAY_AUTH_TOKEN"] == "secret"
        assert found["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert found["PATH"] == "/venv/bin:/usr/bin"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("RAY_SERVE_ENABLE_HA_PROXY", "0"),
            ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "0"),
            ("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "7"),
            ("RAY_USAGE_STATS_ENABLED", "1"),
            ("RAY_AUTH_TOKEN", "mine"),
        ],
    )
    def test_what_the_user_has_set_stays(self, name: str, value: str) -> None:
        assert launch_plan.environment({name: value}, "/venv/bin", "secret")[name] == value

    @pytest.mark.parametrize(
        "given",
        [{"RAY_ADDRESS": "other:6379"}, {"RAY_AUTH_TOKEN_PATH": "/token"}, {"RAY_AUTH_MODE": "disabled"}],
    )
    def test_no_token_is_made_up_where_one_is_not_ours_to_choose(self, given: dict[str, str]) -> None:
        assert "RAY_AUTH_TOKEN" not in launch_plan.environment(given, "/venv/bin", "secret")

    def test_haproxy_keeps_a_stream_for_longer_than_any_drain_waits_for_it(self) -> None:
        files = list((REPOSITORY / "serve_configs").glob("*.yaml"))
        drains_s = [one.args.replicas.drain_s for file in files for one in load_applications(file)]
        hard_stop_s = float(launch_plan.environment({}, "bin", "")["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"])
        assert hard_stop_s > max(*drains_s, ReplicasConfig().drain_s)

    def test_a_log_is_written_as_it_is_made(self) -> None:
        found = launch_plan.environment({}, "bin", "")
        assert found["RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE"] == "1"


def deployment(status: str, message: str = "", **more: object) -> dict[str, object]:
    return {"status": status, "message": message, **more}


def application(status: str, at_s: float = 1.0, **deployments: dict[str, object]) -> dict[str, object]:
    return {"status": status, "message": "", "last_deployed_time_s": at_s, "deployments": deployments}


STARTING = {
    "llm": application(
        "DEPLOYING",
        Gateway=deployment("HEALTHY", replicas=[{"state": "RUNNING"}]),
        Engine=deployment(
            "UPDATING",
            "1 replicas have taken more than 30s to be scheduled.",
            target_num_replicas=2,
            replicas=[{"state": "RUNNING"}, {"state": "STARTING"}],
        ),
    )
}


class TestLaunched:
    def test_an_older_application_of_the_name_is_not_judged(self) -> None:
        details = {"applications": {"llm": application("RUNNING", at_s=5.0)}}
        before = launch_plan.deployed_at(details)
        assert launch_plan.launched(details, ["llm"], before) == {}
        again = {"applications": {"llm": application("DEPLOYING", at_s=9.0)}}
        assert launch_plan.launched(again, ["llm"], before) == again["applications"]

    def test_a_controllers_clock_that_was_set_back_hides_nothing(self) -> None:
        again = {"applications": {"llm": application("RUNNING", at_s=4.0)}}
        assert launch_plan.launched(again, ["llm"], {"llm": 5.0}) == again["applications"]

    def test_what_else_the_cluster_serves_is_not_judged(self) -> None:
        details = {"applications": {"other": application("DEPLOY_FAILED"), "llm": application("RUNNING")}}
        assert list(launch_plan.launched(details, ["llm"], {})) == ["llm"]

    def test_before_serve_knows_anything_there_is_none(self) -> None:
        assert launch_plan.launched({}, ["llm"], {}) == {}


class TestApplications:
    def test_starting_names_what_is_missing(self) -> None:
        assert launch_plan.starting(STARTING) == "Engine UPDATING 1/2"

    def test_why_it_is_missing_is_said_in_serves_words(self) -> None:
        assert launch_plan.hindrances(STARTING) == [
            "Engine: 1 replicas have taken more than 30s to be scheduled."
        ]

    def test_of_an_error_the_trace_is_left_out(self) -> None:
        message = "A replica failed to start.\nTraceback:\n  line 1\nValueError: no memory\n\n"
        failing = {"llm": application("DEPLOYING", Engine=deployment("UPDATING", message))}
        assert launch_plan.hindrances(failing) == [
            "Engine: A replica failed to start. ... ValueError: no memory"
        ]

    def test_what_has_nothing_to_say_and_what_is_there_hinder_nothing(self) -> None:
        silent = application("DEPLOYING", Engine=deployment("UPDATING"), Gateway=deployment("HEALTHY", "x"))
        assert launch_plan.hindrances({"llm": silent}) == []

    def test_starting_is_empty_before_serve_knows_anything(self) -> None:
        assert launch_plan.starting({}) == ""

    def test_deploying_is_neither_running_nor_failed(self) -> None:
        assert not launch_plan.all_running(STARTING, ["llm"])
        assert launch_plan.failure(STARTING) is None

    def test_all_run_only_when_none_is_still_to_come(self) -> None:
        one = {"llm": application("RUNNING")}
        assert not launch_plan.all_running({}, ["llm"])
        assert not launch_plan.all_running(one, ["llm", "chat"])
        assert launch_plan.all_running(one, ["llm"])

    def test_failure_ends_with_the_last_lines_of_the_reason(self) -> None:
        message = "\n".join(f"line {number}" for number in range(100))
        engine = deployment("DEPLOY_FAILED", message)
        reason = launch_plan.failure({"llm": application("DEPLOY_FAILED", Engine=engine)})
        assert reason is not None
        assert reason[0] == "llm: DEPLOY_FAILED"
        assert reason[-1] == "line 99"
        assert len(reason) == 1 + launch_plan.SHOWN_LINES


def test_important_lines_are_errors() -> None:
    lines = [
        "INFO all is well",
        "(Engine pid=1) ERROR no memory",
        "ValueError: bad",
        "  a ValueError",
    ]
    assert list(launch_plan.important(lines)) == lines[1:3]


@pytest.mark.parametrize("given", [{}, {"grpc_proxy": "http://127.0.0.1:1"}], ids=["ours", "the user's"])
async def test_replicas_call_each_other_through_no_proxy(monkeypatch, given: dict[str, str]) -> None:
    """By gRPC, at the machine's address, which no `no_proxy` of a user's names; what he has set stays."""
    for name, value in launch_plan.environment({"http_proxy": "http://127.0.0.1:1", **given}, "", "").items():
        if name.endswith("_proxy"):
            monkeypatch.setenv(name, value)
    server = grpc.aio.server()
    port = server.add_insecure_port("0.0.0.0:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"{ray.util.get_node_ip_address()}:{port}") as channel:
        ready = asyncio.ensure_future(channel.channel_ready())
        done, _ = await asyncio.wait({ready}, timeout=1.0 if given else 10.0)
        ready.cancel()
    await server.stop(None)
    assert bool(done) is not bool(given)
