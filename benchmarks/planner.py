"""How long it takes to plan: processor seconds for every plan of Llama-3-70B on each cluster."""

from __future__ import annotations

import argparse
import time

from benchmarks import markdown
from placement.coefficients import default_coefficients
from placement.hardware import parse_cluster
from placement.models import find_model
from placement.planner import plan_cluster
from placement.serving import parse_slo
from placement.workload import parse_workload

PROMISES = parse_slo("ttft_p50=500,ttft_p99=1000,tpot_p50=50,tpot_p99=100")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clusters", nargs="+", default=["8xh100", "128x8xh100"])
    parser.add_argument("--workload", default="1024/256@8")


def run(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    return {name: _plan(name, options.workload) for name in options.clusters}


def _plan(cluster: str, workload: str) -> dict[str, float]:
    started_s = time.process_time()
    planned = plan_cluster(
        find_model("llama70b"),
        parse_cluster(cluster),
        parse_workload(workload),
        PROMISES,
        default_coefficients(),
    )
    return {
        "plans": len(planned.candidates) + len(planned.rejects),
        "rejected": len(planned.rejects),
        "processor seconds": round(time.process_time() - started_s, 2),
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    return markdown.table("cluster", figures)
