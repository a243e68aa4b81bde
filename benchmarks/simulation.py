"""The policies on a recorded trace, paired by seed: ours, its ablations, and the peers.

`python -m benchmarks simulation --trace FILE` prints a Markdown table of means over the seeds (for Jain's
index and the longest waits: the worst seed); `--json` prints the same figures as one object.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.flow.config import default_classes
from benchmarks import markdown
from placement.simulation.experiment import POLICIES, Experiment
from placement.simulation.experiment import run as simulate
from placement.simulation.workload import Request, read_azure_trace

# How each figure is drawn from a result, and how several seeds are joined.
CLASSES = [policy.name for policy in default_classes()]


def figures(result: dict[str, Any]) -> dict[str, float]:
    classes, jain = result["classes"], result["jain"]
    return {
        "goodput": result["goodput_share"],
        **{f"{name} kept": classes[name]["attainment"] for name in CLASSES},
        "wasted": result["wasted_share"],
        "min Jain": min(jain.values()),
        "min Jain of due": min(result["jain_of_entitled"].values()),
        **{f"{name} max wait s": classes[name]["queue_wait_max_s"] for name in CLASSES},
        "TTFT within 25 %": result["prediction"]["within_25_percent"],
        "within 25 % or 250 ms": result["prediction"]["within_25_percent_or_250_ms"],
        "promises kept": result["returned"]["promised_admitted_share"],
    }


def join(name: str, values: Sequence[float]) -> float:
    if name.startswith("min "):
        return min(values)
    return max(values) if "max" in name else sum(values) / len(values)


def measure(
    requests: Sequence[Request], policies: Sequence[str], seeds: int, **setup: Any
) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for policy in policies:
        tries = [Experiment(policy=policy, seed=seed, **setup) for seed in range(seeds)]
        runs = [figures(simulate(experiment, requests)) for experiment in tries]
        rows[policy] = {name: round(join(name, [one[name] for one in runs]), 4) for name in runs[0]}
    return rows


def table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    return markdown.table("policy", figures, ".3g")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--policies", nargs="+", choices=sorted(POLICIES), default=list(POLICIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--schedulers", type=int, default=1, help="that share replicas and requests")
    parser.add_argument("--load", type=float, default=2.0)
    parser.add_argument("--returns", action="store_true", help="refused clients return once, as told")
    parser.add_argument("--noisy", action="store_true", help="engines that drift, stop and hear late")


def run(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    setup = {name: getattr(options, name) for name in ("replicas", "schedulers", "load", "returns", "noisy")}
    return measure(read_azure_trace(options.trace), options.policies, options.seeds, **setup)
