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

CLASSES = [policy.name for policy in default_classes()]
# None: there was nothing that it could be measured of.
Figures = dict[str, float | None]


def figures(result: dict[str, Any]) -> Figures:
    """Of one result. Peers predict nothing, and a client that does not return was promised nothing."""
    classes, jain = result["classes"], result["jain"]
    prediction, returned = result["prediction"], result["returned"]
    predicted, promised = prediction["predicted"] > 0, returned["promised"] > 0
    return {
        "goodput": result["goodput_share"],
        **{f"{name} kept": classes[name]["attainment"] for name in CLASSES},
        "wasted": result["wasted_share"],
        "min Jain": min(jain.values()),
        "min Jain of due": min(result["jain_of_entitled"].values()),
        **{f"{name} max wait s": classes[name]["queue_wait_max_s"] for name in CLASSES},
        "TTFT within 25 %": prediction["within_25_percent"] if predicted else None,
        "within 25 % or 250 ms": prediction["within_25_percent_or_250_ms"] if predicted else None,
        "promises kept": returned["promised_admitted_share"] if promised else None,
    }


def join(name: str, values: Sequence[float | None]) -> float | None:
    """Several seeds as one figure, of those that have it."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if name.startswith("min "):
        return round(min(known), 4)
    return round(max(known) if "max" in name else sum(known) / len(known), 4)


def measure(
    requests: Sequence[Request], policies: Sequence[str], seeds: int, **setup: Any
) -> dict[str, Figures]:
    rows: dict[str, Figures] = {}
    for policy in policies:
        tries = [Experiment(policy=policy, seed=seed, **setup) for seed in range(seeds)]
        runs = [figures(simulate(experiment, requests)) for experiment in tries]
        rows[policy] = {name: join(name, [one[name] for one in runs]) for name in runs[0]}
    return rows


def table(figures: dict[str, Figures]) -> str:
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


def run(options: argparse.Namespace) -> dict[str, Figures]:
    setup = {name: getattr(options, name) for name in ("replicas", "schedulers", "load", "returns", "noisy")}
    return measure(read_azure_trace(options.trace), options.policies, options.seeds, **setup)
