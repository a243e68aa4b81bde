"""`python -m benchmarks NAME`: measures and prints a table; `--json [FILE]` gives the figures as JSON.

A benchmark is a module with `add_arguments(parser)`, `run(options) -> figures` and `table(figures) -> text`;
one with the option `--picture` has `picture(figures) -> SVG` too. Only the one that is asked for is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import MutableMapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

COMMANDS = {
    "start": "time to ready by phase, beside bare vLLM",
    "overload": "goodput beside its peers, above capacity",
    "burst": "the requests of overload in the simulator, for many seeds",
    "overhead": "cost between client and engine, beside bare vLLM",
    "machine": "how steady this machine is, and so what figures of it are worth",
    "null": "ceiling of the load client",
    "flow": "cost of the decision core",
    "leases": "leases a second of one scheduler, and how long one takes",
    "simulation": "policies on a recorded trace, paired by seed",
    "planner": "processor seconds to plan one node, and 1,024 GPUs",
    "grammars": "what schemas and patterns cost the engine to compile",
    "chaos": "each part killed and frozen under load, and the account of every request",
    "soak": "a mixed load for minutes, and what grows meanwhile",
    "pictures": "what policies keep over the load, as SVG for the documentation",
    "autoscale": "autoscalers on recorded traces, paired by seed",
    "fit-engine": "fit the simulator's engine to a running server",
}
# Those that are packages.
MODULES = {"chaos": "chaos.command"}
STDOUT = "-"
LOOPBACK = ("127.0.0.1", "localhost")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks")
    commands = parser.add_subparsers(required=True, dest="name")
    # No option before it takes a value.
    chosen = next((word for word in argv if word in COMMANDS), None)
    for name, what in COMMANDS.items():
        command = commands.add_parser(name, help=what)
        if name == chosen:
            module(name).add_arguments(command)
            command.add_argument(
                "--json",
                nargs="?",
                const=STDOUT,
                metavar="FILE",
                help="figures to FILE, or instead of the table",
            )
    options = parser.parse_args(argv)
    json_file = None if options.json in (None, STDOUT) else Path(options.json)
    picture_file: Path | None = getattr(options, "picture", None)
    for file in (json_file, picture_file):
        # Said now: after hours of measuring it would cost the figures.
        if file is not None and not file.parent.is_dir():
            parser.error(f"{file}: there is no folder {file.parent}")
    reach_loopback(os.environ)
    benchmark = module(options.name)
    # So that an ended benchmark ends its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    figures = benchmark.run(options)
    text = json.dumps(figures, indent=2)
    print(text if options.json == STDOUT else benchmark.table(figures), flush=True)
    if json_file is not None:
        json_file.write_text(text + "\n")
    if picture_file is not None:
        picture_file.write_text(benchmark.picture(figures))
    return 0


def module(name: str) -> ModuleType:
    return import_module(f"benchmarks.{MODULES.get(name, name.replace('-', '_'))}")


def reach_loopback(environ: MutableMapping[str, str]) -> None:
    """The servers are on this machine: a proxy of the environment's is for models that have to be fetched,
    and for a server elsewhere (`fit-engine --url`)."""
    given = environ.get("no_proxy") or environ.get("NO_PROXY")
    # The lower case is what counts where both are set.
    environ["no_proxy"] = ",".join(filter(None, [given, *LOOPBACK]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
