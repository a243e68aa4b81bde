"""Autoscalers on recorded traces: ours, Ray Serve's, llm-d's, fixed numbers, behind the same decision core.

`python -m benchmarks autoscale --traces DIRECTORY` prints a Markdown table of means over the seeds; `--json`
the same as one object: trace, policy, `attainment` (of what was offered), `replica_hours`, `oscillations`.

The traces' arrivals keep their times; two or three copies, shifted by up to 20 s, make up the load. The first
tenth of the time fills the estimates and is not counted, for anybody, as in the other simulations.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil
from pathlib import Path
from statistics import mean

from app.flow.autoscale import ScalePolicy, lean
from app.flow.config import default_classes
from benchmarks import markdown
from benchmarks.scaling_peers import ServeQueueLength, SloSaturation
from placement.simulation import fluid
from placement.simulation.engine import ENGINES
from placement.simulation.experiment import WARM_UP_SHARE, flow_controller
from placement.simulation.fluid import Fleet
from placement.simulation.scaling import OSCILLATION_S, Fixed, Ours, ScaledSimulator, Scaler, Scaling
from placement.simulation.simulator import capacity_per_s
from placement.simulation.summary import promise_of
from placement.simulation.workload import Mix, Request, read_azure_trace, spread

TRACES = {"conversation": "azure_llm_2023_conv.csv", "code": "azure_llm_2023_code.csv"}
# Copies of a trace: as many requests as keep four or five of these engines busy.
VOLUMES = {"conversation": 2, "code": 3}
# A quarter of the places: a few requests a second then need several engines.
PLACES = 16
ENGINE = replace(ENGINES["gpu-like"], max_num_seqs=PLACES, kv_capacity_tokens=100_000)
MAX_REPLICAS = 4000
SHIFT_S = 20.0
# Engines at the beginning: what the mean load needs at this use.
FIRST_USE = 0.7
OURS = ScalePolicy(max_replicas=MAX_REPLICAS, target_queue_depth=PLACES / 2)
# Serve's `target_ongoing_requests`: its default, and tuned by hand to half and three quarters of the places.
SERVE_TARGETS = (2, PLACES // 2, 3 * PLACES // 4)

# So many engines, always.
FIXED = {f"fixed-{count}": count for count in (4, 5, 6)}
POLICIES: dict[str, Callable[[], Scaler]] = {
    "ours": lambda: Ours(OURS),
    "ours, lean": lambda: Ours(lean(OURS)),
    "ours, queue only": lambda: Ours(replace(OURS, queue_only=True)),
    **{f"serve-{n}": lambda n=n: ServeQueueLength(n, MAX_REPLICAS) for n in SERVE_TARGETS},  # type: ignore[misc]
    "llm-d": lambda: SloSaturation(MAX_REPLICAS),
    **dict.fromkeys(FIXED, Fixed),
}
Figures = dict[str, dict[str, dict[str, float]]]


def workload(path: Path, volume: int, seed: int) -> list[Request]:
    """Copies of a trace, spread over tenants and classes by the seed."""
    requests = read_azure_trace(path)
    uniform = random.Random(f"copies {seed}").uniform
    copies = []
    for number in range(volume):
        shift_s = uniform(0.0, SHIFT_S)
        copies += [
            replace(one, request_id=f"{one.request_id}-{number}", arrived_s=one.arrived_s + shift_s)
            for one in requests
        ]
    copies.sort(key=lambda one: one.arrived_s)
    return spread(copies, Mix(), seed)


def simulate(requests: Sequence[Request], policy: str, seed: int) -> dict[str, float]:
    promise = promise_of(default_classes())
    first_s, last_s = requests[0].arrived_s, requests[-1].arrived_s
    per_s = len(requests) / (last_s - first_s)
    replicas = FIXED.get(policy) or round(per_s / capacity_per_s(ENGINE, requests) / FIRST_USE)
    warm_up_s = first_s + WARM_UP_SHARE * (last_s - first_s)
    scaling = Scaling(
        ENGINE,
        max(1, replicas),
        MAX_REPLICAS,
        seed=seed,
        ttft_budget_s=promise.ttft_s,
        count_from_s=warm_up_s,
    )
    simulator = ScaledSimulator(flow_controller(ENGINE, seed), POLICIES[policy](), scaling)
    records = [one for one in simulator.run(requests) if one.request.arrived_s >= warm_up_s]
    return {
        "attainment": sum(promise.kept(one) for one in records) / len(records),
        "replica_hours": simulator.replica_hours,
        "oscillations": float(simulator.oscillations),
    }


def fleet(trace: Path, policy: str, replicas: int, seed: int) -> dict[str, float]:
    """The trace's arrivals, as many as keep `replicas` engines busy on average, as a fluid."""
    requests = read_azure_trace(trace)
    per_s = capacity_per_s(ENGINE, requests)
    arrivals = [0.0] * (int(requests[-1].arrived_s) + 1)
    for one in requests:
        arrivals[int(one.arrived_s)] += replicas * per_s * len(arrivals) / len(requests)
    warm_up_s = int(WARM_UP_SHARE * len(arrivals))
    outcome = fluid.run(
        arrivals, Fleet(per_s, PLACES, seed=seed), POLICIES[policy](), ceil(replicas / FIRST_USE), warm_up_s
    )
    return {
        "attainment": outcome.kept / outcome.offered,
        "replica_hours": outcome.replica_s / 3600,
        "oscillations": float(oscillations(outcome.targets[warm_up_s:])),
    }


def oscillations(targets: Sequence[int]) -> int:
    """Of each second's target: changes of direction that come as soon as ScaledSimulator counts them."""
    steps = [(second, b - a) for second, (a, b) in enumerate(pairwise(targets)) if a != b]
    return sum(a[1] * b[1] < 0 and b[0] - a[0] <= OSCILLATION_S for a, b in pairwise(steps))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--traces", type=Path, required=True, help="the folder of the two Azure traces of 2023"
    )
    parser.add_argument("--only", choices=TRACES, nargs="+", default=list(TRACES))
    parser.add_argument("--policies", choices=POLICIES, nargs="+", default=list(POLICIES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=5, help="the settings were chosen on 0 to 4")
    parser.add_argument(
        "--fleet",
        type=int,
        help="as a fluid, with the load of so many engines: for hundreds of them; without the fixed numbers",
    )


def run(options: argparse.Namespace) -> Figures:
    figures: Figures = {}
    # Four to six engines are no policy for the load of hundreds.
    policies = [one for one in options.policies if not (options.fleet and one in FIXED)]
    for trace in options.only:
        path = options.traces / TRACES[trace]
        runs: dict[str, list[dict[str, float]]] = {policy: [] for policy in policies}
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            requests = [] if options.fleet else workload(path, VOLUMES[trace], seed)
            for policy in policies:
                runs[policy].append(
                    fleet(path, policy, options.fleet, seed)
                    if options.fleet
                    else simulate(requests, policy, seed)
                )
        figures[trace] = {
            policy: {name: round(mean(one[name] for one in tries), 4) for name in tries[0]}
            for policy, tries in runs.items()
        }
    return figures


def table(figures: Figures) -> str:
    """Markdown."""
    return "\n".join(
        markdown.lines(
            {
                "trace": trace,
                "policy": policy,
                "attainment": f"{row['attainment']:.4f}",
                "replica-hours": f"{row['replica_hours']:.2f}",
                "oscillations": f"{row['oscillations']:.1f}",
            }
            for trace, rows in figures.items()
            for policy, row in rows.items()
        )
    )
