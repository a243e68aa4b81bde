"""`placement check`: the verdict on a configuration file, alone or against a live cluster."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from app.config import ApplicationConfig
from app.config_file import ServedApplication, load_applications
from app.plan_check import control_missing, model_of, plan_of, slo_of, workload_of
from placement.coefficients import default_coefficients
from placement.commands.plan import error_band
from placement.hardware import Cluster, Gpu, parse_cluster
from placement.nodes import NodeView, NoSeat, gpu_types, may_be, seat
from placement.plans import ParallelPlan
from placement.report import write_json
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
    """Exit status 1 when the plan is impossible."""
    applications = load_applications(arguments.file)
    verdicts, seated = {}, True
    for application in applications:
        name, config = application.name, application.args
        if config.engine.device != "gpu":
            print(f"{name}: runs on the CPU; nothing more is predicted.")
            continue
        cluster = _cluster(config, arguments.hardware)
        if arguments.cluster:
            seated = report_seats(config, arguments.cluster, cluster.gpu) and seated
        verdicts[name] = verdict = _verdict(config, cluster, arguments)
        print(describe(name, plan_of(config), verdict))
        print(error_band(default_coefficients(), cluster.gpu, measured=not verdict.unmeasured))
    together = _more_than_all(applications, arguments.hardware)
    if together:
        print(f"REFUSED: {together}")
    if arguments.json:
        write_json(arguments.json, verdicts)
    refused = any(verdict.refusals for verdict in verdicts.values())
    return 1 if refused or together or not seated else 0


def _cluster(config: ApplicationConfig, hardware: str | None) -> Cluster:
    """What the command line says, else the file."""
    return parse_cluster(hardware or config.hardware or DEFAULT_HARDWARE)


def _verdict(config: ApplicationConfig, cluster: Cluster, arguments: argparse.Namespace) -> Verdict:
    return check_plan(
        model_of(config),
        cluster,
        plan_of(config),
        config.engine.max_model_len,
        workload_of(config) if arguments.workload is None else parse_workload(arguments.workload),
        slo_of(config) if arguments.slo is None else parse_slo(arguments.slo),
        default_coefficients(),
    )


def _more_than_all(applications: list[ServedApplication], hardware: str | None) -> str:
    """Applications of one file share a cluster. Empty where they can."""
    on_gpus = [one.args for one in applications if one.args.engine.device == "gpu"]
    if len(on_gpus) < 2:
        return ""
    needed = sum(plan_of(config).gpus for config in on_gpus)
    there = max(_cluster(config, hardware).gpus for config in on_gpus)
    return f"together they need {needed} GPUs, the cluster has {there}" if needed > there else ""


def report_seats(config: ApplicationConfig, address: str, gpu: Gpu) -> bool:
    """Say where the `gpu`s of a live cluster have room for every rank now, or what is missing. True when all
    fit."""
    if address.startswith("ray://"):
        raise ValueError(
            f"--cluster: {address}: Ray's client protocol does not tell nodes: host:port or auto"
        )
    import ray  # here: the other checks need no cluster

    from placement.live import reach
    from placement.ray_nodes import read_free, read_nodes
    from placement.room import room

    plan, parallel = plan_of(config), config.parallel
    try:
        reach(address)
        ray.init(address=address, log_to_driver=False)
    except OSError as error:
        raise ConnectionError(f"--cluster: {address}: {error}") from error
    try:
        nodes, free = read_nodes(), read_free()
    finally:
        ray.shutdown()
    for line in _about_types(nodes, gpu.name):
        print(line)
    nodes = [node for node in nodes if may_be(node.gpu_types, gpu.name)]
    seating = seat(nodes, plan.tensor_parallel, plan.pipeline_parallel, plan.replicas, one_node=plan.one_node)
    if isinstance(seating, NoSeat):
        print(f"cluster: NO SEAT: {seating.reason}")
        return False
    # GPUs are free; what else the bundles hold may not be.
    alike = [resources for resources in free if may_be(gpu_types(resources), gpu.name)]
    found = room(alike, parallel.bundles, parallel.strategy, plan.replicas)
    if found.missing:
        print(f"cluster: NO SEAT: replica {found.replicas + 1} of {plan.replicas}: {found.missing}")
        return False
    if missing := control_missing(config, free):
        print(f"cluster: NO SEAT: {missing}")
        return False
    if not plan.one_node and sum(node.total_gpus > 0 for node in nodes) > 1:
        print("cluster: a seating that keeps TP groups whole exists; Ray may choose another:")
    for replica, ranks in enumerate(seating.nodes):
        print(
            f"cluster: replica {replica + 1}: " + " ".join(f"{r}@{node[:8]}" for r, node in enumerate(ranks))
        )
    print("cluster: NVLink islands inside a node are not known to Ray: check nvidia-smi topo -m")
    return True


def _about_types(nodes: Sequence[NodeView], gpu: str) -> Iterator[str]:
    """What Ray says, or does not say, of GPUs that should be `gpu`s."""
    others = [node for node in nodes if not may_be(node.gpu_types, gpu)]
    if others:
        types = ", ".join(sorted({one for node in others for one in node.gpu_types}))
        gpus = sum(node.total_gpus for node in others)
        yield f"cluster: not counted: {gpus} GPUs, {types} and not {gpu} (--hardware); Ray may choose them"
    silent = [node for node in nodes if node.total_gpus and not node.gpu_types]
    if silent:
        gpus = sum(node.total_gpus for node in silent)
        yield f"cluster: Ray reports no type of {gpus} GPUs: not checked that they are {gpu}"


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
