"""`placement show`: which rank holds what, as planned and as it runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from app.config_file import ServedApplication, load_applications
from placement.live import read_workers
from placement.placed import Replica, Worker, replicas
from placement.show import Plan, plan_json, plan_text, replica_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="a file in Ray Serve's configuration schema")
    parser.add_argument("--address", help="a running cluster (auto, host:port or ray://...): show its actors")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the same as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigFileError for a bad file and ConnectionError without a cluster."""
    applications = load_applications(arguments.config)
    workers = None if arguments.address is None else _workers(arguments.address)
    _show([plan_of(application) for application in applications], workers, arguments.json)
    return 0


def _workers(address: str) -> list[Worker]:
    try:
        return read_workers(address)
    except OSError as error:
        raise ConnectionError(f"--address: {address}: {error}") from error
    except ValueError as error:
        raise ValueError(f"--address: {error}") from error


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


def _show(plans: Sequence[Plan], workers: Sequence[Worker] | None, json_file: Path | None) -> None:
    running = [
        None if workers is None else replicas(workers, plan.topology, plan.application) for plan in plans
    ]
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
        return [plan_text(plan), "No engine of this application runs in this grid."]
    its_own = [replica_text(plan, replica) for replica in running if replica.application is not None]
    others = [replica_text(plan, replica) for replica in running if replica.application is None]
    whose = "Running engines of this grid, whichever application's they are: the cluster does not say."
    return [plan_text(plan), *its_own, *([whose, *others] if others else [])]
