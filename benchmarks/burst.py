"""The requests of `overload` in the simulator: what a burst of a length costs, for many seeds in seconds.

Engines of the embedded model's measured speed, noisy as on a shared machine, warmed up as `overload`
does; then so many seconds of its arrivals at a multiple of what the engines can do, and nothing after it.
Where front ends and engines share processors, twice what bare vLLM does was about 2.4 times what ours can.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from statistics import mean
from typing import Any

from app.flow.config import FlowConfig
from benchmarks import markdown
from benchmarks.arrivals import at_once, poisson
from benchmarks.overload import CLASSES, LENGTHS, SHARES
from placement.simulation.ablations import ABLATIONS, without
from placement.simulation.engine import ENGINES, LinearStep
from placement.simulation.experiment import flow_controller
from placement.simulation.noise import Noise
from placement.simulation.simulator import Record, Setup, Simulator, capacity_per_s
from placement.simulation.summary import Promise, summarise
from placement.simulation.workload import Mix

# `fit-engine` of one thread of two cores.
STEP = LinearStep(base_s=0.0126, prefill_token_s=6.4e-4, sequence_s=1.33e-3, context_token_s=0.0)
ENGINE = replace(ENGINES["smollm2-cpu"], step=STEP, max_num_batched_tokens=512)
MIX = Mix(8, 1.0, CLASSES, SHARES)
# The warm-up's requests have ended by then.
BEGINS_S = 30.0
SAMPLE = 2000

Figures = dict[str, dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--durations-s", type=float, nargs="+", default=[45.0, 180.0])
    parser.add_argument("--load", type=float, default=2.4, help="of capacity")
    parser.add_argument("--replicas", type=int, default=2, help="engines")
    parser.add_argument("--ablate", nargs="+", choices=list(ABLATIONS), default=["no-end"])
    parser.add_argument("--ttft-budgets-s", type=float, nargs=3, default=[1.0, 5.0, 60.0], metavar="S")
    parser.add_argument("--seeds", type=int, default=12)


def run(options: argparse.Namespace) -> Figures:
    replicas = options.replicas
    capacity = replicas * capacity_per_s(ENGINE, at_once(SAMPLE, "capacity", LENGTHS, MIX))
    budgets_s = dict(zip(CLASSES, options.ttft_budgets_s, strict=True))
    rows: Figures = {}
    for duration_s in options.durations_s:
        for name in ("", *options.ablate):
            runs = [
                burst(name, duration_s, options.load * capacity, budgets_s, seed, replicas)
                for seed in range(options.seeds)
            ]
            row = {figure: round(mean(each[figure] for each in runs), 3) for figure in runs[0]}
            rows[f"{duration_s:g} s, ours{name and ', ' + name}"] = row
    return rows


def burst(
    ablation: str, duration_s: float, rate_per_s: float, budgets_s: dict[str, float], seed: int, replicas: int
) -> dict[str, float]:
    """What one burst of ours, without that mechanism, keeps of its promises; shares of offered."""
    requests = poisson(duration_s, rate_per_s, f"{seed}", LENGTHS, MIX)
    warm_up = at_once(replicas * ENGINE.max_num_seqs, f"warm-up {seed}", LENGTHS, MIX)
    arrivals = [replace(one, arrived_s=0.0) for one in warm_up]
    arrivals += [replace(one, arrived_s=BEGINS_S + one.arrived_s) for one in requests]

    def change(config: FlowConfig) -> FlowConfig:
        config = without(config, ablation) if ablation else config
        return replace(
            config, classes=tuple(replace(c, ttft_budget_s=budgets_s[c.name]) for c in config.classes)
        )

    setup = Setup(ENGINE, replicas, noise=Noise(), seed=f"{seed}")
    simulator = Simulator(flow_controller(ENGINE, seed, change), setup)
    records = simulator.run(arrivals)
    return _figures(records, Promise(budgets_s), simulator.wasted_tokens)


def _figures(records: list[Record], promise: Promise, wasted_tokens: int) -> dict[str, float]:
    result: dict[str, Any] = dict(summarise(records, promise, BEGINS_S, wasted_tokens))
    offered = [one for one in records if one.request.arrived_s >= BEGINS_S]
    ends = Counter(one.outcome.label.partition("_")[0] for one in offered if one.outcome)
    return {
        "goodput": result["goodput_share"],
        **{f"{name} kept": result["classes"][name]["attainment"] for name in CLASSES},
        "refused at once": ends["rejected"] / len(offered),
        "after a wait": ends["evicted"] / len(offered),
        "TTFT within 25 %": result["prediction"]["within_25_percent"],
    }


def table(figures: Figures) -> str:
    """Markdown."""
    return markdown.table("burst", figures)
