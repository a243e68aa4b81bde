"""`placement simulate`: try a policy on a recorded or generated workload."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from placement.simulation.engine import ENGINES
from placement.simulation.experiment import POLICIES, Experiment
from placement.simulation.experiment import run as simulate
from placement.simulation.workload import Request, poisson, read_azure_trace, sessions

# Generated workloads: arrivals are stretched to the load, so the rate here does not matter.
GENERATED = {
    "poisson": lambda count, seed: poisson(count, 1.0, seed),
    "bursty": lambda count, seed: poisson(count, 1.0, seed, burst=4.0),
    "sessions": lambda count, seed: sessions(count, 8, 1.0, seed),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", type=Path, help="TIMESTAMP, ContextTokens, GeneratedTokens (Azure's)")
    source.add_argument("--generate", choices=sorted(GENERATED))
    parser.add_argument("--requests", type=int, default=0, help="take the first so many (0: all; 20000)")
    parser.add_argument("--policy", choices=sorted(POLICIES), default="flow")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="gpu-like")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--load", type=float, default=2.0, help="offered load over capacity")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--returns", action="store_true", help="refused clients return once, as told")
    parser.add_argument("--noisy", action="store_true", help="engines that drift, stop and hear late")
    parser.add_argument("--json", type=Path, help="write the result here instead of to standard output")


def run(args: argparse.Namespace) -> int:
    if args.requests < 0:
        raise ValueError(f"--requests: {args.requests} is negative")
    experiment = Experiment(
        policy=args.policy,
        engine=args.engine,
        replicas=args.replicas,
        seed=args.seed,
        load=args.load,
        returns=args.returns,
        noisy=args.noisy,
    )
    text = json.dumps(simulate(experiment, _requests(args)), indent=2) + "\n"
    if args.json is None:
        sys.stdout.write(text)
    else:
        args.json.write_text(text)
    return 0


def _requests(args: argparse.Namespace) -> list[Request]:
    if args.trace is None:
        return GENERATED[args.generate](args.requests or 20_000, args.seed)
    requests = read_azure_trace(args.trace)
    return requests[: args.requests or len(requests)]
