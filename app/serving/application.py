"""The Serve application: `import_path: app.serving.application:build`."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from app.config import ApplicationConfig
from app.engine.arguments import environment
from app.plan_check import refusal_of
from app.serving.autoscaling import METRICS_INTERVAL_S
from app.serving.engine import EngineReplica
from app.serving.gateway import GatewayReplica, key_ring
from app.serving.scheduler import SchedulerReplica
from app.serving.serve_status import ENGINES
from placement.hardware import parse_cluster

# Calls between deployments are short and few: none waits in Serve's own queues.
UNBOUNDED_CALLS = 100_000
# Serve replaces a replica whose process has ended when it next asks; one that does not answer after three
# timeouts. Ten seconds: a replica whose machine is busy answers late, and must not be ended for it.
HEALTH_PERIOD_S = 1.0
HEALTH_TIMEOUT_S = 10.0
# A gateway that says nothing for fifteen seconds serves nobody, and its clients wait.
GATEWAY_HEALTH_TIMEOUT_S = 5.0
# Everything waits for the scheduler, which does milliseconds of work at a time: it is asked more often, with
# less patience.
SCHEDULER_HEALTH_PERIOD_S = 0.25
SCHEDULER_HEALTH_TIMEOUT_S = 3.0
# A line for each report would cost more than what is said in it; what users ask has its line in the gateway's
# log.
NO_ACCESS_LOG = LoggingConfig(enable_access_log=False)
# A scheduler and an engine know themselves when they have drained; nothing that Serve counts holds them up.
STOP_LOOK_S = 0.1


def build(args: dict[str, Any]) -> Application:
    """Gateway, scheduler and engines, bound together. Raises ValueError before anything starts."""
    config = ApplicationConfig.model_validate(args)
    _refuse_impossible(config)
    # A gateway starts beside engines that take minutes: a missing file of keys shows at once.
    key_ring(config)
    scheduler = scheduler_deployment(config).bind(config)
    return _gateway(config).bind(config, scheduler, _engine(config).bind(config, scheduler))


def _refuse_impossible(config: ApplicationConfig) -> None:
    """The planner's static check, where the configuration says what the GPUs are."""
    if config.hardware is None:
        return
    refusal = refusal_of(config, parse_cluster(config.hardware))
    if refusal is not None:
        raise ValueError(f"hardware: {config.hardware} can't hold the plan: {refusal}")


def _gateway(config: ApplicationConfig) -> serve.Deployment:
    return serve.deployment(
        GatewayReplica,
        name="Gateway",
        num_replicas=config.gateway.replicas,
        max_ongoing_requests=UNBOUNDED_CALLS,
        ray_actor_options=_control_options(config),
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=GATEWAY_HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=config.replicas.drain_s,
    )


def scheduler_deployment(config: ApplicationConfig) -> serve.Deployment:
    """The one that leads, and its spares."""
    schedulers = 1 + config.scheduler.spares
    return serve.deployment(
        SchedulerReplica,
        name="Scheduler",
        request_router_config=RequestRouterConfig(
            request_router_class="app.serving.leader_router:LeaderRouter"
        ),
        max_ongoing_requests=UNBOUNDED_CALLS,
        ray_actor_options=_control_options(config),
        health_check_period_s=SCHEDULER_HEALTH_PERIOD_S,
        health_check_timeout_s=SCHEDULER_HEALTH_TIMEOUT_S,
        # It goes at once where there is a successor, else after the gateways.
        graceful_shutdown_timeout_s=config.replicas.drain_s,
        graceful_shutdown_wait_loop_s=STOP_LOOK_S,
        logging_config=NO_ACCESS_LOG,
        # Always as many; that they can't change is what lets their policy hand on the word for the engines.
        autoscaling_config=_autoscaling(schedulers, schedulers, "HandOnPolicy"),
    )


def _control_options(config: ApplicationConfig) -> dict[str, Any]:
    """What a gateway or a scheduler asks Ray for: no CPU, and where it may be."""
    return {"num_cpus": 0, "resources": config.control_resources}


def _engine(config: ApplicationConfig) -> serve.Deployment:
    replicas = config.replicas
    return serve.deployment(
        EngineReplica,
        name=ENGINES,
        max_ongoing_requests=UNBOUNDED_CALLS,
        autoscaling_config=_autoscaling(replicas.min, replicas.max, "EnginePolicy"),
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=replicas.drain_s,
        graceful_shutdown_wait_loop_s=STOP_LOOK_S,
        logging_config=NO_ACCESS_LOG,
        **engine_placement(config),
    )


def _autoscaling(least: int, most: int, policy: str) -> AutoscalingConfig:
    """Serve only carries out: delays and steps are the scheduler's (app/flow/autoscale.py)."""
    return AutoscalingConfig(
        min_replicas=least,
        max_replicas=most,
        metrics_interval_s=METRICS_INTERVAL_S,
        look_back_period_s=4 * METRICS_INTERVAL_S,
        upscale_delay_s=0.0,
        downscale_delay_s=0.0,
        policy=AutoscalingPolicy(policy_function=f"app.serving.autoscaling:{policy}"),
    )


def engine_placement(config: ApplicationConfig) -> dict[str, Any]:
    """What one engine replica asks Ray for: its placement group, and the actor in the first bundle."""
    bundles = config.parallel.bundles
    return {
        "placement_group_bundles": bundles,
        "placement_group_strategy": config.parallel.strategy,
        "ray_actor_options": {
            # The replica shares the first bundle with rank 0, which takes its GPU.
            "num_cpus": bundles[0].get("CPU", 0),
            "runtime_env": {"env_vars": environment(config)},
        },
    }
