"""The pictures of docs/flow.md: what policies keep over the offered load, on a seeded trace. Simulated.

`python -m benchmarks pictures` writes them again; the same code gives the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.flow.config import default_classes
from placement.plot import Series, scatter
from placement.simulation.experiment import Experiment
from placement.simulation.experiment import run as simulate
from placement.simulation.workload import poisson

FOLDER = Path("docs/pictures")
# A queue with a time to live of a minute shows what it keeps only after minutes of overload.
REQUESTS = 12_000
LOADS = (0.5, 1.0, 1.25, 1.5, 2.0, 3.0)
POLICIES = ("flow", "fifo-cap", "strict-priority-ttl")
OURS = "flow"

Results = Mapping[str, Mapping[float, Mapping[str, Any]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=FOLDER)


def run(options: argparse.Namespace) -> dict[str, int]:
    """Bytes of each picture written."""
    options.folder.mkdir(parents=True, exist_ok=True)
    found = pictures(results())
    for name, picture in found.items():
        (options.folder / name).write_text(picture)
    return {name: len(picture) for name, picture in found.items()}


def table(figures: dict[str, int]) -> str:
    return "\n".join(f"{name}: {size} bytes" for name, size in figures.items())


def results() -> Results:
    requests = poisson(REQUESTS, 1.0, seed=0)
    return {
        policy: {load: simulate(Experiment(policy=policy, load=load), requests) for load in LOADS}
        for policy in POLICIES
    }


def pictures(found: Results) -> dict[str, str]:
    """SVG by file name."""
    ours = {policy.name: found[OURS] for policy in default_classes()}
    return {
        "goodput.svg": _over_load(
            "Promises kept, by policy (simulated)", found, lambda _, result: result["goodput_share"]
        ),
        "classes.svg": _over_load(
            "Promises kept, by class of ours (simulated)",
            ours,
            lambda name, result: result["classes"][name]["attainment"],
        ),
    }


def _over_load(title: str, found: Results, share: Callable[[str, Mapping[str, Any]], float]) -> str:
    series = [
        Series(name, [(load, 100 * share(name, result), name) for load, result in by_load.items()], line=True)
        for name, by_load in found.items()
    ]
    return scatter(title, "offered load / capacity", "% of offered", series)
