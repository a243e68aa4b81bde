"""`python -m benchmarks.ray_serve_llm CONFIG --port N`: Ray Serve LLM with the engine arguments of CONFIG.

The peer, started with its public API (`ray.serve.llm.build_openai_app`) in a Ray of its own, until SIGTERM.
The environment decides between its ways to stream (benchmarks/systems.py).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
from pathlib import Path
from typing import Any

from app.config import ApplicationConfig
from app.config_file import load_applications
from app.engine.arguments import vllm_arguments
from app.engine.models import prepare

# What `ray.serve.llm` imports beside what is here. `ray[llm]` brings it too, and vLLM's GPU package.
PACKAGES = ("pyarrow",)
# Logical: it asks for a CPU for each of its two ingress replicas, its router and the engine's two actors.
LOGICAL_CPUS = 16
# Ray Serve LLM sets these itself (its executor on a CPU is another one: `MP` in benchmarks/systems.py); the
# bound of the engine's queue is our application's.
_NOT_GIVEN = ("model", "served_model_name", "distributed_executor_backend", "max_num_queued_reqs")


def missing() -> str | None:
    """Why it can't be measured; None where it can."""
    absent = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    return f"not installed (needs {', '.join(absent)})" if absent else None


def engine_kwargs(arguments: list[str]) -> dict[str, Any]:
    """vLLM's command line as the keyword arguments of LLMConfig."""
    kwargs: dict[str, Any] = {}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        negated = name.startswith("no-")
        kwargs[name.removeprefix("no-").replace("-", "_")] = _value(value) if value else not negated
    return {name: value for name, value in kwargs.items() if name not in _NOT_GIVEN}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def llm_config(config: ApplicationConfig) -> dict[str, Any]:
    """One model on a CPU, as many replicas as ours, everything else its own defaults."""
    path = prepare(config.model.source)
    return {
        "model_loading_config": {"model_id": config.model.name, "model_source": path},
        "accelerator_config": {"kind": "cpu"},
        "engine_kwargs": engine_kwargs(vllm_arguments(config, path)),
        "deployment_config": {"num_replicas": config.replicas.min},
    }


def serve_until_told(config: ApplicationConfig, port: int, ready: Path) -> None:
    """Makes the file `ready` when every replica runs: the ingress answers before the engine can."""
    import ray
    from ray import serve
    from ray.serve.llm import build_openai_app

    # Never somebody else's cluster that runs on this machine.
    ray.init("local", num_cpus=LOGICAL_CPUS, include_dashboard=False, log_to_driver=True)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_openai_app({"llm_configs": [llm_config(config)]}))
    ready.touch()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ray_serve_llm")
    parser.add_argument("config", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ready", type=Path, required=True, help="a file to make then")
    options = parser.parse_args()
    (application,) = load_applications(options.config)
    serve_until_told(application.args, options.port, options.ready)


if __name__ == "__main__":
    main()
