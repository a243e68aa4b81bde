"""`placement check`: the static verdict on a configuration file."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from app.config import ApplicationConfig
from placement.coefficients import default_coefficients
from placement.commands import Subparsers
from placement.commands.plan import error_band
from placement.hardware import parse_cluster
from placement.models import LanguageModel, find_model
from placement.plans import ParallelPlan
from placement.report import write_json
from placement.serving import parse_slo
from placement.verdict import Verdict, check_plan
from placement.workload import parse_workload


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("check", help="prove or refute one configuration file")
    parser.add_argument("file", type=Path, help="serve_configs/....yaml")
    parser.add_argument("--hardware", default="8xh100", help="GPUs to check against, as in plan --cluster")
    parser.add_argument("--workload", default="1024/256", help="PROMPT/OUTPUT@REQUESTS_PER_S")
    parser.add_argument("--slo", default="ttft_p50=500,ttft_p99=1000,tpot_p50=50,tpot_p99=100")
    parser.add_argument("--json", type=Path, help="write the verdict to this file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 1 when the plan is impossible."""
    coefficients = default_coefficients()
    verdicts = {}
    for config in read_configurations(arguments.file):
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
    return 1 if any(verdict.refusals for verdict in verdicts.values()) else 0


def read_configurations(file: Path) -> list[ApplicationConfig]:
    """Every application's `args` of a Serve configuration file. ValueError names what is wrong."""
    document = yaml.safe_load(file.read_text())
    if not isinstance(document, dict):
        raise ValueError(f"{file}: not a Serve configuration file")
    applications = document.get("applications")
    if not isinstance(applications, list):
        raise ValueError(f"{file}: applications: missing")
    return [ApplicationConfig.model_validate(application.get("args")) for application in applications]


def model_of(config: ApplicationConfig) -> LanguageModel:
    return find_model(config.model.source)


def plan_of(config: ApplicationConfig) -> ParallelPlan:
    """The configured plan in the planner's terms."""
    parallel, engine = config.parallel, config.engine
    sequence = parallel.sequence_parallelism
    return ParallelPlan(
        tensor_parallel=parallel.tensor_parallel_size,
        pipeline_parallel=parallel.pipeline_parallel_size,
        replicas=config.replicas.max,
        weight_dtype="fp8" if "fp8" in (engine.quantization or "") else "bfloat16",
        kv_dtype="fp8" if engine.kv_cache_dtype.startswith("fp8") else "bfloat16",
        max_batched_tokens=engine.max_num_batched_tokens,
        max_running=engine.max_num_seqs,
        memory_utilization=engine.gpu_memory_utilization,
        layer_partition=tuple(parallel.layer_partition) if parallel.layer_partition else None,
        sequence_parallel_min_tokens=sequence.min_tokens if sequence.enabled else None,
    )


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
