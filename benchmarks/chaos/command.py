"""`python -m benchmarks chaos`: kills and freezes each part of a real application under load, and accounts.

A cell is PART:kill|freeze:PHASE. One cluster of one node or two serves all runs: Ray, HAProxy, two gateways,
a scheduler and its spare, two engines of the tiny Llama. Every run starts from a whole application (a new one
where the run before has left another, or could not be measured), sends
streams and whole greedy requests whose answers are known, applies one signal to one process, waits for the
outcome of each request, for all leases to be back, for orphans, and for the application to be whole again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from app.flow.estimate import nearest_rank
from benchmarks import markdown
from benchmarks.chaos.account import Account
from benchmarks.chaos.cell import Application, Cell, Run, every_ask
from benchmarks.chaos.client import Known, learn
from benchmarks.chaos.ending import NAME, end_under_load
from benchmarks.chaos.parts import Processes, tree
from benchmarks.chaos.second_node import SecondNode
from benchmarks.configs import changed
from benchmarks.servers import Server, StartError, ours

Json = dict[str, Any]
# A run of an application whose launcher's process is stated.
Measure = Callable[[Application, Known, int], Account]
MODEL = "tiny-llama"
# Few places, so that a queue is easy to make.
ENGINES, GATEWAYS, PLACES_OF_ENGINE = 2, 2, 4
COMMONEST = (
    "engine-core:kill:mid-stream",
    "engine-replica:kill:before-first-token",
    "gateway:kill:mid-stream",
)
# What is tested here waits for as long as a restart takes.
PATIENT = [
    {"name": name, "boost_s": boost_s, "min_share": 0.0, "ttft_budget_s": 300}
    for name, boost_s in (("interactive", 600), ("standard", 300), ("batch", 0))
]
SECTIONS: Json = {
    "model": {"name": MODEL, "source": "embedded:tiny-llama"},
    "engine": {
        "dtype": "float32",
        "max_num_seqs": PLACES_OF_ENGINE,
        # Prompts take several steps, so that there is a time before the first token.
        "max_num_batched_tokens": 64,
        "cpu_kv_cache_gib": 1,
        # A step of the tiny model takes milliseconds.
        "stall_s": 6,
    },
    "scheduler": {"max_queue_wait_s": 300},
    "flow": {"classes": PATIENT, "limit": {"enabled": False}},
    "replicas": {"min": ENGINES, "max": ENGINES, "drain_s": 20},
    "gateway": {"replicas": GATEWAYS},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", nargs="+", type=Cell.parse, default=[Cell.parse(c) for c in COMMONEST])
    parser.add_argument("--runs", type=int, default=3, help="of each cell")
    parser.add_argument("--seed", type=int, default=0, help="of the first run; each run prints its own")
    parser.add_argument(
        "--workers", type=int, default=1, help="of an engine (TP); more than one for engine-worker"
    )
    parser.add_argument(
        "--nodes", type=int, choices=(1, 2), default=1, help="an engine on each of two, for raylet"
    )
    parser.add_argument("--end", action="store_true", help="SIGTERM under load at last, as one more cell")
    parser.add_argument("--config", type=Path, default=Path("serve_configs/smollm2-cpu.yaml"))


def run(options: argparse.Namespace) -> Json:
    check(options.cells, options.workers, options.nodes)
    # Round by round, so that what a run has left behind meets another cell.
    seeds = range(options.seed, options.seed + options.runs)
    left: deque[Measure] = deque(partial(one_run, cell, seed) for seed in seeds for cell in options.cells)
    if options.end:
        left.append(the_end)
    accounts: list[Account] = []
    with tempfile.TemporaryDirectory() as folder:
        sections = SECTIONS | {"parallel": workers(options.workers)}
        config = changed(options.config, Path(folder), "chaos", sections)
        while left:
            try:
                with started(config, options) as (application, pid):
                    known = asyncio.run(learn(application.url, MODEL, every_ask(application.places)))
                    accounts += measured_on(application, known, pid, left)
            except StartError as error:
                # What was measured is worth more than an early end.
                if not accounts:
                    raise
                print(f"{error}\n{len(left)} runs are left out", file=sys.stderr)
                break
    return summary(accounts)


def check(cells: Sequence[Cell], workers: int, nodes: int) -> None:
    """Raises ValueError for a cell whose part this application does not have."""
    for cell in cells:
        if cell.part == "raylet" and nodes < 2:
            raise ValueError(f"cells: {cell} needs --nodes 2: the head's raylet is the cluster's life")
        if cell.part == "engine-worker" and workers < 2:
            raise ValueError(f"cells: {cell} needs --workers 2: a single worker lives in the engine core")


def measured_on(application: Application, known: Known, pid: int, left: deque[Measure]) -> list[Account]:
    """Of `left`, from which they are taken, as many as leave it whole: one more would measure two faults."""
    accounts: list[Account] = []
    while left and (not accounts or accounts[-1].restored_s is not None):
        accounts.append(left.popleft()(application, known, pid))
        print(accounts[-1].as_json(), file=sys.stderr, flush=True)
    return accounts


def workers(count: int) -> Json:
    """One lives in the engine core; more are Ray actors, each with a logical GPU."""
    if count == 1:
        return {}
    bundles = [{"CPU": 1, "GPU": 1}, *[{"GPU": 1}] * (count - 1)]
    return {"tensor_parallel_size": count, "bundles": bundles}


@contextlib.contextmanager
def started(config: Path, options: argparse.Namespace) -> Iterator[tuple[Application, int]]:
    """With its launcher's process."""
    if options.nodes == 1:
        with ours(config) as server:
            yield application_at(server, tree(server.pid)), server.pid
        return
    # One engine fits on each; the GPUs of its workers are logical.
    gpus = options.workers if options.workers > 1 else 0
    node = SecondNode(cpus=1, gpus=gpus, head_cpus=1)
    with node.kept() as others, ours(config, node.variables, node.options) as server:
        own = tree(server.pid)
        yield application_at(server, lambda: [*own(), *others()]), server.pid


def application_at(server: Server, processes: Processes) -> Application:
    places = ENGINES * PLACES_OF_ENGINE
    return Application(server.url, MODEL, ENGINES, GATEWAYS, places, processes)


def one_run(cell: Cell, seed: int, application: Application, known: Known, pid: int) -> Account:
    return accounted(Run(application, cell, known, seed).run(), str(cell), seed)


def the_end(application: Application, known: Known, pid: int) -> Account:
    return accounted(end_under_load(application, known, pid), NAME, 0)


def accounted(measure: Coroutine[Any, Any, Account], cell: str, seed: int) -> Account:
    """A run that can't be measured is one, and the others go on."""
    try:
        return asyncio.run(measure)
    except (LookupError, TimeoutError, psutil.NoSuchProcess) as error:
        return Account(cell, seed, error=f"{type(error).__name__}: {error}")


def summary(accounts: list[Account]) -> Json:
    """Sums by cell; durations are the worst of its runs and the 99th percentile, which they are for few."""
    cells: dict[str, Json] = {}
    for name in dict.fromkeys(account.cell for account in accounts):
        of_cell = [account for account in accounts if account.cell == name]
        runs = [account for account in of_cell if not account.error]
        fates = sum((Counter(account.fates) for account in runs), Counter())
        cells[name] = {
            "runs": len(runs),
            "not_measured": len(of_cell) - len(runs),
            "requests": sum(one.requests for one in runs),
            **dict(fates),
            "lost": sum(one.lost for one in runs),
            "truncated_silently": sum(one.truncated_silently for one in runs),
            "duplicated": sum(one.different for one in runs),
            "failed_without_token": sum(one.failed_without_token for one in runs),
            "leaked": sum(one.leaked for one in runs),
            "orphans": sum(len(one.orphans) for one in runs),
            "not_recovered": sum(one.recovery_s is None for one in runs),
            "recovery_s_p99": _of([one.recovery_s for one in runs], lambda came: nearest_rank(came, 0.99)),
            "settled_s_max": _of([one.settled_s for one in runs], max),
            "restored_s_max": _of([one.restored_s for one in runs], max),
        }
    changed_from_defaults = {name: SECTIONS[name] for name in ("engine", "scheduler", "flow", "replicas")}
    return {
        "settings": changed_from_defaults,
        "cells": cells,
        "runs": [account.as_json() for account in accounts],
    }


def _of(values: list[float | None], figure: Callable[[list[float]], float]) -> float | None:
    """None where one never came, and of nothing."""
    came = [value for value in values if value is not None]
    return figure(came) if came and len(came) == len(values) else None


def table(figures: Json) -> str:
    columns = (
        *("runs", "not_measured", "requests", "completed", "error", "broken", "lost", "truncated_silently"),
        *("duplicated", "failed_without_token", "leaked", "orphans"),
        *("recovery_s_p99", "settled_s_max", "restored_s_max"),
    )
    return "\n".join(
        markdown.lines(
            {"cell": name} | {column: _shown(cell.get(column, 0), cell["runs"]) for column in columns}
            for name, cell in figures["cells"].items()
        )
    )


def _shown(value: float | None, runs: int) -> str:
    if value is None:
        return "never" if runs else "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
