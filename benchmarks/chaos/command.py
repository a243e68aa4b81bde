"""`python -m benchmarks chaos`: kills and freezes each part of a real application under load, and accounts.

A cell is PART:kill|freeze:PHASE. One cluster of one node or two serves all runs: Ray, HAProxy, two gateways,
a scheduler and its spare, two engines of the tiny Llama. Every run starts from a whole application, sends
streams and whole greedy requests whose answers are known, applies one signal to one process, waits for the
outcome of each request, for all leases to be back, for orphans, and for the application to be whole again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.flow.estimate import nearest_rank
from benchmarks import markdown
from benchmarks.chaos.account import Account
from benchmarks.chaos.cell import Application, Cell, Run, every_ask
from benchmarks.chaos.client import Known, learn
from benchmarks.chaos.ending import end_under_load
from benchmarks.chaos.parts import Processes, tree
from benchmarks.chaos.second_node import SecondNode
from benchmarks.configs import changed
from benchmarks.servers import Server, ours

Json = dict[str, Any]
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
    accounts: list[Account] = []
    with tempfile.TemporaryDirectory() as folder:
        sections = SECTIONS | {"parallel": workers(options.workers)}
        config = changed(options.config, Path(folder), "chaos", sections)
        with started(config, options) as (application, pid):
            known = asyncio.run(learn(application.url, MODEL, every_ask(application.places)))
            # Round by round, so that what a run has left behind meets another cell.
            for number in range(options.runs):
                for cell in options.cells:
                    accounts.append(one_run(application, cell, known, options.seed + number))
            if options.end:
                accounts.append(asyncio.run(end_under_load(application, known, pid)))
                print(accounts[-1].as_json(), file=sys.stderr, flush=True)
    return summary(accounts)


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


def one_run(application: Application, cell: Cell, known: Known, seed: int) -> Account:
    account = asyncio.run(Run(application, cell, known, seed).run())
    print(f"{cell} seed {seed}: {account.as_json()}", file=sys.stderr, flush=True)
    return account


def summary(accounts: list[Account]) -> Json:
    """Sums by cell; durations are the worst of its runs and the 99th percentile, which they are for few."""
    cells: dict[str, Json] = {}
    for name in dict.fromkeys(account.cell for account in accounts):
        runs = [account for account in accounts if account.cell == name]
        fates = sum((Counter(account.fates) for account in runs), Counter())
        recoveries = [one.recovery_s for one in runs if one.recovery_s is not None]
        cells[name] = {
            "runs": len(runs),
            "requests": sum(one.requests for one in runs),
            **dict(fates),
            "lost": sum(one.lost for one in runs),
            "truncated_silently": sum(one.truncated_silently for one in runs),
            "duplicated": sum(one.different for one in runs),
            "failed_without_token": sum(one.failed_without_token for one in runs),
            "leaked": sum(one.leaked for one in runs),
            "orphans": sum(len(one.orphans) for one in runs),
            "not_recovered": len(runs) - len(recoveries),
            "recovery_s_p99": nearest_rank(recoveries, 0.99) if recoveries else None,
            "settled_s_max": _worst([one.settled_s for one in runs]),
            "restored_s_max": _worst([one.restored_s for one in runs]),
        }
    return {"cells": cells, "runs": [account.as_json() for account in accounts]}


def _worst(values: list[float | None]) -> float | None:
    """None where one never came."""
    return None if None in values else max(value for value in values if value is not None)


def table(figures: Json) -> str:
    columns = ("runs", "requests", "completed", "error", "broken", "lost", "truncated_silently", "duplicated")
    columns += ("failed_without_token", "leaked", "orphans", "recovery_s_p99", "settled_s_max")
    columns += ("restored_s_max",)
    return "\n".join(
        markdown.lines(
            {"cell": name} | {column: _shown(cell.get(column, 0)) for column in columns}
            for name, cell in figures["cells"].items()
        )
    )


def _shown(value: float | None) -> str:
    if value is None:
        return "never"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
