"""`placement check`: the verdict on a configuration file, alone or against a live cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from app.config_file import load_applications
from app.plan_check import model_of, plan_of
from placement.coefficients import default_coefficients
from placement.commands.plan import error_band
from placement.hardware import parse_cluster
from placement.nodes import NoSeat, seat
from placement.plans import ParallelPlan
from placement.report import write_json
from placement.serving import parse_slo
from placement.verdict import Verdict, check_plan
from placement.workload import parse_workload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="serve_configs/....yaml")
    parser.add_argument("--hardware", default="8xh100", help="GPUs to check against, as in plan --cluster")
    parser.add_argument("--workload", default="1024/256", help="PROMPT/OUTPUT@REQUESTS_PER_S")
    parser.add_argument("--slo", default="ttft_p50=500,ttft_p99=1000,tpot_p50=50,tpot_p99=100")
    parser.add_argument("--cluster", help="also ask this Ray cluster (ray://..., or auto) what is free now")
    parser.add_argument("--json", type=Path, help="write the verdict to this file")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 when the plan is impossible."""
    coefficients = default_coefficients()
    verdicts, seated = {}, True
    for config in (application.args for application in load_applications(arguments.file)):
        if arguments.cluster:
            seated = report_seats(plan_of(config), arguments.cluster) and seated
        if config.engine.device != "gpu":
            print(f"{config.model.name}: runs on the CPU; nothing more is predicted.")
            continue
        verdict = check_plan(
            model_of(config),
            parse_cluster(arguments.hardware),
            plan_of(config),
            config.engine.max_model_len,
            parse_workload(arguments.workload),
            parse_slo(arguments.slo),
            coefficients,
        )
        verdicts[config.model.name] = verdict
        print(describe(config.model.name, plan_of(config), verdict))
        print(error_band(coefficients))
    if arguments.json:
        write_json(arguments.json, verdicts)
    refused = any(verdict.refusals for verdict in verdicts.values())
    return 1 if refused or not seated else 0


def report_seats(plan: ParallelPlan, address: str) -> bool:
    """Say where a live cluster would put every rank now, or what is missing. True when all fit."""
    import ray  # here: the other checks need no cluster

    from placement.ray_nodes import read_nodes

    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError as error:
        raise ConnectionError(f"--cluster: {address}: {error}") from error
    try:
        seating = seat(read_nodes(), plan.tensor_parallel, plan.pipeline_parallel, plan.replicas)
    finally:
        ray.shutdown()
    if isinstance(seating, NoSeat):
        print(f"cluster: NO SEAT: {seating.reason}")
        return False
    for replica, ranks in enumerate(seating.nodes):
        print(
            f"cluster: replica {replica + 1}: " + " ".join(f"{r}@{node[:8]}" for r, node in enumerate(ranks))
        )
    print("cluster: NVLink islands inside a node are not known to Ray: check nvidia-smi topo -m")
    return True


def describe(name: str, plan: ParallelPlan, verdict: Verdict) -> str:
    """The verdict in lines, worst first."""
    lines = [f"{name}: {plan.label()}: {'REFUSED' if verdict.refusals else 'possible'}"]
    lines += [f"  refused: {reason}" for reason in verdict.refusals]
    lines += [f"  warning: {warning}" for warning in verdict.warnings]
    weights = "/".join(f"{gigabytes:.2f}" for gigabytes in verdict.weight_gb_by_stage)
    lines.append(f"  weights a GPU by stage {weights} GB, imbalance {100 * verdict.weight_imbalance:.1f} %")
    lines.append(f"  KV cache {verdict.kv_tokens:,} tokens a replica")
    if verdict.requests_per_s is not None and verdict.latency is not None:
        latency = verdict.latency
        lines.append(
            f"  {verdict.requests_per_s:.1f} requests/s; TTFT P50/P99 {latency.ttft_p50_ms:.0f}/"
            f"{latency.ttft_p99_ms:.0f} ms, TPOT P50/P99 {latency.tpot_p50_ms:.1f}/"
            f"{latency.tpot_p99_ms:.1f} ms"
        )
    lines += [f"  * {note}" for note in verdict.unmeasured]
    return "\n".join(lines)
