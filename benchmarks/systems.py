"""The systems that are compared, with the settings of each in words.

All get the same model, engine arguments and number of engines, and the variables that the application gives
its engine (`environment` of app/engine/arguments.py). Other variables that are not stated are the system's
own defaults, but for three that would favour one of them: Ray lowers its workers' priority
(`RAY_worker_niceness`), gives the threads of an engine by its own count (`OMP_NUM_THREADS`), and lets
replicas call each other through the environment's proxy (`grpc_proxy`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks import ray_serve_llm, servers
from benchmarks.servers import Server

Start = Callable[[Path, Mapping[str, str]], AbstractContextManager[Server]]
One = TypeVar("One")
# vLLM has no word for none; nobody sends so many.
UNBOUNDED = "--max-num-queued-reqs=1000000"
# What Ray Serve LLM sets for itself on a CPU, whatever it is given (`get_initialization_kwargs` of Ray 2.60's
# vllm_models.py). Bare vLLM and ours have their one rank in the engine core's process (`uni`), which vLLM
# allows on a CPU only with VLLM_ENABLE_V1_MULTIPROCESSING=0 (vllm/platforms/cpu.py), a variable that all get.
MP = "its engine's worker in a process of its own (executor mp)"


@dataclass(frozen=True, slots=True)
class System:
    """`settings` in words; `variables` beside those that all get, or instead of them; `prioritised`: of its
    requests each carries the rank of its class as vLLM's `priority`."""

    settings: str
    server: Start
    variables: Mapping[str, str]
    missing: Callable[[], str | None] = lambda: None
    prioritised: bool = False

    def start(self, config: Path, threads: int) -> AbstractContextManager[Server]:
        common = {"OMP_NUM_THREADS": str(threads), "RAY_worker_niceness": "0", "grpc_proxy": ""}
        return self.server(config, common | dict(self.variables))


def _ray_serve_llm(settings: str, **variables: str) -> System:
    return System(f"{settings}; {MP}", servers.ray_serve_llm, variables, ray_serve_llm.missing)


def _vllm(settings: str, *extra: str, prioritised: bool = False) -> System:
    return System(settings, partial(servers.bare_vllm, extra=extra), {}, prioritised=prioritised)


def systems(vllm_max_queued: int, engines: int = 1) -> dict[str, System]:
    """By name; `vllm_max_queued` is what `vllm-queue-limit` gets as `--max-num-queued-reqs`.

    Of several engines vLLM's own server makes data-parallel ranks behind one front end.
    """
    ranks = f"--data-parallel-size={engines}"
    throughput = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    direct = {"RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1"}
    return {
        "vllm": _vllm("vLLM's OpenAI server, first come first served, queue without bound", UNBOUNDED, ranks),
        "vllm-priority": _vllm(
            "vLLM's OpenAI server, its requests by vLLM's priority: the rank of their class",
            UNBOUNDED,
            ranks,
            prioritised=True,
        ),
        "vllm-queue-limit": _vllm(
            f"the same with --max-num-queued-reqs={vllm_max_queued}, running ones included",
            f"--max-num-queued-reqs={vllm_max_queued}",
            ranks,
        ),
        "vllm-mp": _vllm(
            f"the first, {MP}, as Ray Serve LLM has it", UNBOUNDED, ranks, "--distributed-executor-backend=mp"
        ),
        "vllm-beside-ours": System(
            "the first, on a machine where an application of ours runs that nobody asks: what Ray and Serve "
            "take at rest",
            partial(servers.bare_vllm_beside_ours, extra=(UNBOUNDED, ranks)),
            {},
        ),
        "ours": System(
            "what scripts/serve runs: HAProxy, RAY_SERVE_THROUGHPUT_OPTIMIZED=1", servers.ours, {}
        ),
        "ours-no-haproxy": System(
            "the same behind Serve's Python proxy: RAY_SERVE_ENABLE_HA_PROXY=0",
            servers.ours,
            {"RAY_SERVE_ENABLE_HA_PROXY": "0"},
        ),
        "ray-serve-llm": _ray_serve_llm("build_openai_app, its defaults: Python proxy, 2 ingress replicas"),
        "ray-serve-llm-as-is": _ray_serve_llm(
            "the same, of the application's variables for its engine all but VLLM_USE_AOT_COMPILE=0, "
            "which no documentation names",
            VLLM_USE_AOT_COMPILE="1",
        ),
        "ray-serve-llm-throughput": _ray_serve_llm(
            "the same, RAY_SERVE_THROUGHPUT_OPTIMIZED=1", **throughput
        ),
        "ray-serve-llm-direct": _ray_serve_llm(
            "direct streaming: RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING=1, RAY_SERVE_ENABLE_HA_PROXY=1, "
            "RAY_SERVE_THROUGHPUT_OPTIMIZED=1",
            **throughput,
            **direct,
        ),
    }


def turned(order: Sequence[One], number: int) -> list[One]:
    """The order of that round: it turns by one each, so that none always comes first."""
    first = number % len(order) if order else 0
    return [*order[first:], *order[:first]]
