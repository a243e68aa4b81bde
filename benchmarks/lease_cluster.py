"""Ray, Serve, a scheduler and those that ask it, for as long as they are measured."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import psutil

from app.config import ApplicationConfig
from app.serving.launch_plan import environment
from benchmarks.lease_parts import Asked, AskingGateway, EmptyScheduler, Engines, Window
from benchmarks.servers import serve_ports

NAME = "leases"
# What scripts/serve sets that concerns a call from gateway to scheduler.
SETTINGS = ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_worker_niceness", "RAY_USAGE_STATS_ENABLED")
START_TIMEOUT_S = 300.0
# What is asked is the scheduler of `app`, or one that grants at once: over Serve, or as a plain Ray actor.
SCHEDULER, SERVE_EMPTY, RAY_EMPTY = "scheduler", "serve-empty", "ray-empty"
# The scheduler too, told of each first token besides.
FIRST_TOKENS = "scheduler-first-tokens"
TARGETS = (SCHEDULER, FIRST_TOKENS, SERVE_EMPTY, RAY_EMPTY)


@contextlib.contextmanager
def cluster() -> Iterator[None]:
    """A Ray of its own, with Serve and without a proxy."""
    given = environment({}, "", "")
    os.environ.update({name: given[name] for name in SETTINGS} | serve_ports())
    import ray
    from ray import serve

    # Everything here asks for no CPU: what runs beside what is for the kernel to decide.
    ray.init("local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


@contextlib.contextmanager
def target(name: str, config: ApplicationConfig, engines: int) -> Iterator[tuple[Any, str]]:
    """A handle of one of TARGETS, and how its processes are called."""
    import ray
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from app.serving.application import _scheduler

    if name == RAY_EMPTY:
        actor = ray.remote(EmptyScheduler).options(num_cpus=0, max_concurrency=100_000).remote()
        yield actor, "ray::EmptyScheduler"
        ray.kill(actor)
        return
    empty = serve.deployment(
        EmptyScheduler,
        name="Scheduler",
        max_ongoing_requests=100_000,
        ray_actor_options={"num_cpus": 0},
        request_router_config=RequestRouterConfig(
            request_router_class="app.serving.leader_router:LeaderRouter"
        ),
    )
    application = empty.bind() if name == SERVE_EMPTY else _scheduler(config).bind(config)
    handle = serve.run(application, name=NAME, route_prefix=None)
    reporting = None
    if name != SERVE_EMPTY:
        reporting = ray.remote(Engines).options(num_cpus=0).remote(handle, engines)
        ray.get(reporting.begin.remote(), timeout=START_TIMEOUT_S)
    yield handle, f"ray::ServeReplica:{NAME}:Scheduler"
    if reporting is not None:
        ray.kill(reporting)
    serve.delete(NAME)


@contextlib.contextmanager
def gateways(scheduler: Any, count: int, first_tokens: bool) -> Iterator[list[Any]]:
    """Actors that have started."""
    import ray

    asking = ray.remote(AskingGateway).options(num_cpus=0)
    actors = [asking.remote(scheduler, first_tokens) for _ in range(count)]
    ray.get([actor.pid.remote() for actor in actors], timeout=START_TIMEOUT_S)
    yield actors
    for actor in actors:
        ray.kill(actor)


def ask(actors: list[Any], streams: int, window: Window, process: str) -> tuple[list[Asked], float, float]:
    """All at the same time, `streams` shared out; CPU seconds in the window of the processes called so:
    of all their threads, and of the busiest one."""
    import ray

    shares = [streams // len(actors) + (number < streams % len(actors)) for number in range(len(actors))]
    asked = [actor.ask.remote(share, window) for actor, share in zip(actors, shares, strict=True)]
    time.sleep(max(0.0, window.begin_s - time.time()))
    before = _threads_s(process)
    time.sleep(max(0.0, window.end_s - time.time()))
    spent_s = [seconds - before.get(thread, 0.0) for thread, seconds in _threads_s(process).items()]
    answers = ray.get(asked, timeout=START_TIMEOUT_S)
    return answers, sum(spent_s), max(spent_s)


def _threads_s(process: str) -> dict[int, float]:
    """CPU seconds so far by thread, of our descendants with that name."""
    return {
        thread.id: thread.user_time + thread.system_time
        for one in psutil.Process().children(recursive=True)
        if " ".join(one.cmdline()).startswith(process)
        for thread in one.threads()
    }
