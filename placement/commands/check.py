"""`placement check`: the verdict on a configuration file, alone or against a live cluster."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from app.config import ApplicationConfig
from app.config_file import ServedApplication, load_applications
from app.plan_check import memory_promises_of, model_of, plan_of, slo_of, workload_of
from placement.coefficients import default_coefficients
from placement.commands.plan import error_band
from placement.hardware import Cluster, parse_cluster
from placement.nodes import NodeView
from placement.plans import ParallelPlan
from placement.report import write_json
from placement.seats import Seated, Seats, seats_of
from placement.serving import parse_slo
from placement.verdict import Verdict, check_plan
from placement.workload import parse_workload

# Where neither says what the GPUs are.
DEFAULT_HARDWARE = "8xh100"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="serve_configs/....yaml")
    parser.add_argument(
        "--hardware", help=f"GPUs, as in plan --cluster; the file's `hardware`, else {DEFAULT_HARDWARE}"
    )
    parser.add_argument("--workload", help="PROMPT/OUTPUT@REQUESTS_PER_S; what the file's `promises` are for")
    parser.add_argument("--slo", help="ttft_p50=500,... in ms; the file's `promises`")
    parser.add_argument("--cluster", help="also ask this Ray cluster (auto, or host:port) what is free now")
    parser.add_argument("--json", type=Path, help="write the verdict to this file")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 when the plan is impossible, or has no seats in the cluster that was asked."""
    applications = load_applications(arguments.file)
    seats = None if arguments.cluster is None else Seats(_nodes(arguments.cluster))
    stated = _stated(applications, arguments.hardware)
    verdicts = {}
    for application in applications:
        name, config = application.name, application.args
        if config.engine.device != "gpu":
            print(f"{name}: runs on the CPU; nothing more is predicted.")
            continue
        cluster = _cluster(config, arguments.hardware)
        verdict = _verdict(config, cluster, arguments)
        seated = Seated(()) if seats is None else seats.take(config, cluster.gpu.name)
        beside = stated[cluster.gpu.name].take(config, cluster.gpu.name)
        refused = []
        if beside.missing and not verdict.refusals:
            refused.append(f"beside the applications before it: {beside.missing}")
        if seated.missing:
            refused.append(f"cluster: NO SEAT: {seated.missing}")
        verdicts[name] = verdict = replace(verdict, refusals=(*verdict.refusals, *refused))
        print(describe(name, plan_of(config), verdict))
        for line in seated.lines:
            print(f"  cluster: {line}")
        print(error_band(default_coefficients(), cluster.gpu, measured=not verdict.unmeasured))
    if arguments.json:
        write_json(arguments.json, verdicts)
    return 1 if any(verdict.refusals for verdict in verdicts.values()) else 0


def _nodes(address: str) -> list[NodeView]:
    if address.startswith("ray://"):
        raise ValueError(
            f"--cluster: {address}: Ray's client protocol does not tell nodes: host:port or auto"
        )
    from placement.ray_nodes import nodes_of  # here: the other checks need no Ray

    try:
        return nodes_of(address)
    except OSError as error:
        raise ConnectionError(f"--cluster: {address}: {error}") from error
    except ValueError as error:
        raise ValueError(f"--cluster: {error}") from error


def _cluster(config: ApplicationConfig, hardware: str | None) -> Cluster:
    """What the command line says, else the file."""
    if hardware is not None:
        return parse_cluster(hardware, "--hardware")
    return parse_cluster(config.hardware or DEFAULT_HARDWARE)


def _verdict(config: ApplicationConfig, cluster: Cluster, arguments: argparse.Namespace) -> Verdict:
    return check_plan(
        model_of(config),
        cluster,
        plan_of(config),
        config.engine.max_model_len,
        workload_of(config) if arguments.workload is None else parse_workload(arguments.workload),
        slo_of(config) if arguments.slo is None else parse_slo(arguments.slo),
        memory_promises_of(config),
        default_coefficients(),
    )


def _stated(applications: list[ServedApplication], hardware: str | None) -> dict[str, Seats]:
    """Of each type of GPU the largest cluster that is stated: the applications of a file share it."""
    on_gpus = [one.args for one in applications if one.args.engine.device == "gpu"]
    clusters = sorted((_cluster(config, hardware) for config in on_gpus), key=lambda cluster: cluster.gpus)
    return {cluster.gpu.name: seats_of(cluster, on_gpus) for cluster in clusters}


def describe(name: str, plan: ParallelPlan, verdict: Verdict) -> str:
    """The verdict in lines, worst first."""
    lines = [f"{name}: {plan.label()}: {'REFUSED' if verdict.refusals else 'possible'}"]
    lines += [f"  refused: {reason}" for reason in verdict.refusals]
    lines += [f"  warning: {warning}" for warning in verdict.warnings]
    if (memory := verdict.memory) is not None:
        weights = "/".join(f"{stage.weight_bytes / 1e9:.2f}" for stage in memory.stages)
        lines.append(
            f"  weights a GPU by stage {weights} GB, imbalance of the memory in use "
            f"{100 * memory.imbalance:.1f} %"
        )
        lines.append(f"  KV cache {memory.kv_tokens:,} tokens a replica")
    if (delivery := verdict.delivery) is not None:
        latency, rate = delivery.latency, delivery.simulated_requests_per_s
        at = "with the workload's clients" if rate is None else f"at {rate:.1f}"
        lines.append(
            f"  {delivery.requests_per_s:.1f} requests/s at most; {at}: TTFT P50/P99 "
            f"{latency.ttft_p50_ms:.0f}/{latency.ttft_p99_ms:.0f} ms, TPOT P50/P99 "
            f"{latency.tpot_p50_ms:.1f}/{latency.tpot_p99_ms:.1f} ms"
        )
    lines += [f"  * {note}" for note in verdict.unmeasured]
    return "\n".join(lines)
