"""`python -m placement show CONFIG`: which rank holds what, as planned and as it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from app.config_file import ConfigFileError, ServedApplication, load_applications
from placement.live import read_workers
from placement.placed import Replica, Worker, replicas
from placement.show import Plan, plan_json, plan_text, replica_text

# As argparse exits on a bad command line.
BAD_INPUT = 2
NO_CLUSTER = 1
_TOKEN_HINT = "A cluster with token authentication wants RAY_AUTH_MODE=token and its token here too."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        applications = load_applications(options.config)
    except ConfigFileError as error:
        return _fail(BAD_INPUT, error.lines)
    try:
        workers = None if options.address is None else read_workers(options.address)
    except (OSError, ValueError) as error:
        return _fail(NO_CLUSTER, [f"--address: {options.address}: {error}", _TOKEN_HINT])
    _show([plan_of(application) for application in applications], workers, options.json)
    return 0


def plan_of(application: ServedApplication) -> Plan:
    """The grid that an application's configuration asks for."""
    config = application.args
    shape = config.model.known_shape()
    return Plan(
        application=application.name,
        model=config.model.name,
        source=config.model.source,
        topology=config.parallel.topology(),
        bundles=config.parallel.bundles,
        layers=None if shape is None else shape.layers,
        partition=config.parallel.layer_partition,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="placement", description="Where the ranks of an engine are.")
    commands = parser.add_subparsers(required=True)
    show = commands.add_parser("show", help="print GPU, stage, layers and tensor rank of every rank")
    show.add_argument("config", metavar="CONFIG", help="a file in Ray Serve's configuration schema")
    show.add_argument("--address", help="a running cluster (auto, host:port or ray://...): show its actors")
    show.add_argument("--json", metavar="FILE", type=Path, help="write the same as JSON")
    return parser


def _show(plans: Sequence[Plan], workers: Sequence[Worker] | None, json_file: Path | None) -> None:
    running = [None if workers is None else replicas(workers, plan.topology) for plan in plans]
    blocks = [block for plan, found in zip(plans, running, strict=True) for block in _blocks(plan, found)]
    print("\n\n".join(blocks))
    if json_file is not None:
        documents = [plan_json(plan, found) for plan, found in zip(plans, running, strict=True)]
        json_file.write_text(json.dumps(documents, indent=2) + "\n", encoding="utf-8")


def _blocks(plan: Plan, running: list[Replica] | None) -> list[str]:
    if running is None:
        return [plan_text(plan)]
    if "GPU" not in plan.bundles[0]:
        return [plan_text(plan), "The ranks are processes of the engine's replica: they have no actors."]
    if not running:
        return [plan_text(plan), "No engine of this grid is running."]
    return [plan_text(plan), *(replica_text(plan, replica) for replica in running)]


def _fail(status: int, lines: Sequence[str]) -> int:
    print("\n".join(lines), file=sys.stderr)
    return status
