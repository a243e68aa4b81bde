"""`python -m benchmarks NAME`: measures and prints a table; `--json [FILE]` gives the figures as JSON.

A benchmark is a module with `add_arguments(parser)`, `run(options) -> figures` and `table(figures) -> text`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from benchmarks import (
    autoscale,
    burst,
    fit_engine,
    flow,
    grammars,
    leases,
    machine,
    null,
    overhead,
    overload,
    pictures,
    planner,
    simulation,
    soak,
    start,
)
from benchmarks.chaos import command as chaos

COMMANDS = {
    "start": (start, "time to ready by phase, beside bare vLLM"),
    "overload": (overload, "goodput beside its peers, above capacity"),
    "burst": (burst, "the requests of overload in the simulator, for many seeds"),
    "overhead": (overhead, "cost between client and engine, beside bare vLLM"),
    "machine": (machine, "how steady this machine is, and so what figures of it are worth"),
    "null": (null, "ceiling of the load client"),
    "flow": (flow, "cost of the decision core"),
    "leases": (leases, "leases a second of one scheduler, and how long one takes"),
    "simulation": (simulation, "policies on a recorded trace, paired by seed"),
    "planner": (planner, "processor seconds to plan one node, and 1,024 GPUs"),
    "grammars": (grammars, "what schemas and patterns cost the engine to compile"),
    "chaos": (chaos, "each part killed and frozen under load, and the account of every request"),
    "soak": (soak, "a mixed load for minutes, and what grows meanwhile"),
    "pictures": (pictures, "what policies keep over the load, as SVG for the documentation"),
    "autoscale": (autoscale, "autoscalers on recorded traces, paired by seed"),
    "fit-engine": (fit_engine, "fit the simulator's engine to a running server"),
}
STDOUT = "-"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks")
    commands = parser.add_subparsers(required=True, dest="name")
    for name, (module, what) in COMMANDS.items():
        command = commands.add_parser(name, help=what)
        module.add_arguments(command)
        command.add_argument(
            "--json", nargs="?", const=STDOUT, metavar="FILE", help="figures to FILE, or instead of the table"
        )
    options = parser.parse_args()
    # So that an ended benchmark ends its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    benchmark, _ = COMMANDS[options.name]
    figures = benchmark.run(options)
    text = json.dumps(figures, indent=2)
    if options.json not in (None, STDOUT):
        Path(options.json).write_text(text + "\n")
    print(text if options.json == STDOUT else benchmark.table(figures))
    return 0


sys.exit(main())
