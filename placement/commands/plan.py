"""`placement plan`: every plan of a model on a cluster, ranked."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import inf
from pathlib import Path

from app.config import MOST_GPU_MEMORY
from placement.coefficients import Coefficients, default_coefficients
from placement.hardware import Gpu, parse_cluster
from placement.models import find_model
from placement.planner import LOAD_SHARE, Candidate, Planned, pareto_front, plan_cluster
from placement.plans import MEASURED_TENSOR_PARALLEL
from placement.plot import Series, scatter
from placement.report import table, write_json
from placement.serving import parse_slo
from placement.workload import WorkloadSpec, parse_workload

_MEASURED = ", ".join(map(str, MEASURED_TENSOR_PARALLEL))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="catalogued name, Hugging Face id or config.json")
    parser.add_argument("--cluster", required=True, help="8xh100, or NODESxGPUSxTYPE such as 4x8xh100")
    parser.add_argument("--workload", required=True, help="PROMPT/OUTPUT@REQUESTS_PER_S, or ...@CLIENTSc")
    parser.add_argument("--slo", default="", help="ttft_p50=500,ttft_p99=1000,tpot_p50=50,tpot_p99=100 (ms)")
    parser.add_argument("--memory-utilization", type=float, default=0.85, help="share of each GPU's memory")
    parser.add_argument("--network-gb-per-s", type=float, help="between nodes, per GPU and direction")
    parser.add_argument("--top", type=int, default=20, help="rows of the table")
    parser.add_argument("--json", type=Path, help="write all plans and rejects to this file")
    parser.add_argument("--plot", type=Path, help="write the Pareto picture as SVG")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 when no plan keeps all promises."""
    _refuse_bad_numbers(arguments)
    model, cluster = find_model(arguments.model), parse_cluster(arguments.cluster, "--cluster")
    if arguments.network_gb_per_s is not None:
        cluster = replace(cluster, network_gb_per_s=arguments.network_gb_per_s)
    workload, slo = parse_workload(arguments.workload), parse_slo(arguments.slo)
    coefficients = default_coefficients()
    planned = plan_cluster(model, cluster, workload, slo, coefficients, arguments.memory_utilization)
    print(_describe(planned, workload, arguments.top))
    print(error_band(coefficients, cluster.gpu))
    if arguments.json:
        write_json(arguments.json, plan_json(planned, coefficients, cluster.gpu))
    if arguments.plot and planned.candidates:
        arguments.plot.write_text(picture(planned))
    return 0 if any(candidate.keeps_promises for candidate in planned.candidates) else 1


def _refuse_bad_numbers(arguments: argparse.Namespace) -> None:
    share, network, top = arguments.memory_utilization, arguments.network_gb_per_s, arguments.top
    if not 0 < share <= MOST_GPU_MEMORY:
        raise ValueError(f"--memory-utilization: {share:g} is not above 0 and at most {MOST_GPU_MEMORY}")
    if network is not None and not 0 < network < inf:
        raise ValueError(f"--network-gb-per-s: {network:g} is not positive and finite")
    if top < 1:
        raise ValueError(f"--top: {top} is not positive")


def _describe(planned: Planned, workload: WorkloadSpec, top: int) -> str:
    parts = [
        "Ranked by goodput per GPU (plans that keep every promise first); latencies with all replicas "
        f"{_load(workload)}:"
    ]
    parts.append(_candidate_table(planned.candidates[:top]))
    fastest = sorted(planned.candidates, key=lambda candidate: candidate.alone_ms)[:5]
    parts.append("\nFastest for one user alone:")
    parts.append(_candidate_table(fastest))
    parts.append("\nRejected:")
    reasons = Counter(reject.reason.split(":")[0] for reject in planned.rejects)
    parts += [f"  {count:4d}  {reason}" for reason, count in reasons.most_common()]
    parts += [f"  {reject.plan.label()}: {reject.reason}" for reject in planned.rejects[:top]]
    return "\n".join([*parts, ""])


def _load(workload: WorkloadSpec) -> str:
    """At which the latencies hold."""
    if workload.concurrency is not None:
        return f"at {workload.concurrency} clients"
    rate = workload.requests_per_s
    return f"at {LOAD_SHARE:g} of a plan's req/s" if rate is None else f"at {rate:g} req/s"


def error_band(coefficients: Coefficients, gpu: Gpu, *, measured: bool = True) -> str:
    """The sentence that goes under every table of predictions; `measured`: that runs of some plan in it are
    published."""
    carried = (
        ""
        if gpu.kernels_measured
        else f"{gpu.name}: no kernel table; the H100's efficiency is carried over.\n"
    )
    if not (gpu.runs_published and measured):
        return f"{carried}Error of these figures: not known."
    errors = coefficients.fit_error_percent
    tpot, ttft = errors.get("held-out TPOT"), errors.get("held-out TTFT")
    if tpot is None or ttft is None:
        return f"{carried}Error of these figures: not determined."
    return (
        f"{carried}Mean error on published H100 and H200 rows that no fit saw (mean TTFT and TPOT of closed "
        f"loops): TPOT {tpot:.1f} %, TTFT {ttft:.1f} %. "
        f"* PP>1, sequence parallelism, a TP that is not one of {_MEASURED}: no published H100 measurement, "
        "error unknown."
    )


def plan_json(planned: Planned, coefficients: Coefficients, gpu: Gpu) -> dict[str, object]:
    """All plans and rejects; each plan with its error band, or with what no measurement stands behind."""
    errors = coefficients.fit_error_percent if gpu.runs_published else {}
    band = {axis: errors.get(f"held-out {axis}") for axis in ("TPOT", "TTFT")}
    candidates = [
        {
            **asdict(candidate),
            "goodput_per_gpu": candidate.goodput_per_gpu,
            "keeps_promises": candidate.keeps_promises,
            "unmeasured": candidate.plan.unmeasured,
            "mean_error_percent": None if candidate.plan.unmeasured else band,
        }
        for candidate in planned.candidates
    ]
    return {"candidates": candidates, "rejects": planned.rejects, "mean_error_percent": band}


def _candidate_table(candidates: Sequence[Candidate]) -> str:
    header = ["plan", "req/s", "per GPU", "limit", "carry the rate", "TTFT P50/P99 ms", "TPOT P50/P99 ms"]
    header += ["alone", "KV tokens", "promises"]
    return table(header, [_cells(candidate) for candidate in candidates])


def _cells(candidate: Candidate) -> list[str]:
    latency = candidate.latency
    mark = "*" if candidate.plan.unmeasured else ""
    return [
        candidate.plan.label() + mark,
        f"{candidate.cluster_requests_per_s:.1f}",
        f"{candidate.goodput_per_gpu:.2f}",
        candidate.capacity.limit,
        f"{carrying} of {candidate.plan.replicas}" if (carrying := candidate.replicas_for_rate) else "-",
        f"{latency.ttft_p50_ms:.0f}/{latency.ttft_p99_ms:.0f}" if latency else "-",
        f"{latency.tpot_p50_ms:.1f}/{latency.tpot_p99_ms:.1f}" if latency else "-",
        f"{candidate.alone_ms:.1f}",
        f"{candidate.memory.kv_tokens:,}",
        "kept" if candidate.keeps_promises else "; ".join(candidate.broken),
    ]


def picture(planned: Planned) -> str:
    """TPOT against goodput per GPU, with the Pareto front."""

    def points(candidates: Sequence[Candidate]) -> list[tuple[float, float, str]]:
        return [
            (c.latency.tpot_p50_ms, c.goodput_per_gpu, c.plan.label() + ("*" if c.plan.unmeasured else ""))
            for c in candidates
            if c.latency is not None
        ]

    kept = [c for c in planned.candidates if c.keeps_promises]
    broken = [c for c in planned.candidates if not c.keeps_promises]
    series = [
        Series("keeps the promises", points(kept)),
        Series("breaks one", points(broken)),
        Series("Pareto front (* unmeasured on H100)", points(pareto_front(planned.candidates)), line=True),
    ]
    return scatter("Plans", "TPOT P50, ms", "requests/s per GPU", series)
