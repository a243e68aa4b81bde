"""Ray, Serve, a scheduler and those that ask it, for as long as they are measured."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import psutil

from app.config import ApplicationConfig
from app.serving.launch_plan import environment
from benchmarks.chaos.parts import title
from benchmarks.lease_parts import Asked, AskingGateway, Connect, EmptyScheduler, Engines, Window
from benchmarks.processes import spent_in, threads_cpu
from benchmarks.servers import serve_ports

NAME = "leases"
# What scripts/serve sets that concerns a call over Serve's handle.
SETTINGS = (
    "RAY_SERVE_THROUGHPUT_OPTIMIZED",
    "grpc_proxy",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S",
    "RAY_worker_niceness",
    "RAY_USAGE_STATS_ENABLED",
)
START_TIMEOUT_S = 300.0
# Of an actor; more than anybody here has streams.
MAX_CONCURRENCY = 10_000
# The scheduler of `app`, and told of each first token besides.
SCHEDULER, FIRST_TOKENS = "scheduler", "scheduler-first-tokens"
# A deployment that grants at once, asked over its handle.
SERVE_EMPTY = "serve-empty"
TARGETS = (SCHEDULER, FIRST_TOKENS, SERVE_EMPTY)


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """A Ray of its own, with Serve and without a proxy."""
    given = environment(os.environ, "", "")
    os.environ.update({name: given[name] for name in SETTINGS} | serve_ports())
    import ray
    from ray import serve

    ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


@contextlib.contextmanager
def target(name: str, config: ApplicationConfig, engines: int) -> Iterator[tuple[Connect, str]]:
    """How to connect to one of TARGETS, and how its process is called. Engines report to it."""
    from ray import serve

    serve.run(_application(name, config), name=NAME, route_prefix=None)
    connect = partial(serve.get_app_handle, NAME)
    with _reporting(connect, 0 if name == SERVE_EMPTY else engines):
        yield connect, f"ray::ServeReplica:{NAME}:Scheduler"
    serve.delete(NAME)


def _application(name: str, config: ApplicationConfig) -> Any:
    from ray import serve

    from app.serving.application import UNBOUNDED_CALLS, scheduler_deployment

    if name != SERVE_EMPTY:
        return scheduler_deployment(config).bind(config)
    return serve.deployment(
        EmptyScheduler,
        name="Scheduler",
        max_ongoing_requests=UNBOUNDED_CALLS,
        ray_actor_options={"num_cpus": 0},
    ).bind()


@contextlib.contextmanager
def _reporting(connect: Connect, engines: int) -> Iterator[None]:
    import ray

    with _actor(Engines, connect, engines) as stand_ins:
        ray.get(stand_ins.begin.remote(), timeout=START_TIMEOUT_S)
        yield


@contextlib.contextmanager
def _actor(of: type, *arguments: Any) -> Iterator[Any]:
    """It asks for no CPU: what runs beside what is for the kernel to decide."""
    import ray

    actor = ray.remote(of).options(num_cpus=0, max_concurrency=MAX_CONCURRENCY).remote(*arguments)
    yield actor
    ray.kill(actor)


@contextlib.contextmanager
def gateways(connect: Connect, count: int, name: str) -> Iterator[list[Any]]:
    """Actors that have started."""
    import ray

    how = (connect, name == SERVE_EMPTY, name == FIRST_TOKENS)
    with contextlib.ExitStack() as stack:
        actors = [stack.enter_context(_actor(AskingGateway, *how)) for _ in range(count)]
        ray.get([actor.pid.remote() for actor in actors], timeout=START_TIMEOUT_S)
        yield actors


def ask(actors: list[Any], streams: int, window: Window, process: str) -> tuple[list[Asked], float, float]:
    """All at the same time, `streams` shared out; CPU seconds in the window of the processes called so:
    of all their threads, and of the busiest one."""
    import ray

    # Looking through the machine's processes takes too long to be part of the window.
    found = _called(process)
    shares = [streams // len(actors) + (number < streams % len(actors)) for number in range(len(actors))]
    asked = [actor.ask.remote(share, window) for actor, share in zip(actors, shares, strict=True)]
    time.sleep(max(0.0, window.begin_s - time.time()))
    before = threads_cpu(found)
    time.sleep(max(0.0, window.end_s - time.time()))
    spent_s = spent_in(window.end_s - window.begin_s, before, threads_cpu(found))
    answers = ray.get(asked, timeout=START_TIMEOUT_S)
    return answers, sum(spent_s), max(spent_s)


def at_rest(seconds: float, process: str) -> float:
    """CPU seconds a second of the processes called so while nobody asks for anything."""
    found = _called(process)
    before = threads_cpu(found)
    time.sleep(seconds)
    return sum(spent_in(seconds, before, threads_cpu(found))) / seconds


def _called(process: str) -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if title(one).startswith(process)]
