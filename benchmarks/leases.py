"""How many leases one scheduler gives: its real deployment on Ray Serve, and gateways that only ask it.

A gateway is a process with the application's own control plane. Its streams ask for a
lease, get it and close it, again and again (closed loop). Engines are stand-ins that report and always have a
place, so that nothing waits for one: only the scheduler and the way to it are measured. Requests of real
gateways also carry bytes; there are fewer of them on the same cores.

`serve-empty` is the peer: a deployment that grants at once and knows nothing, asked over Serve's handle with
a call for a lease and another for its end. Gateways and scheduler share the machine's cores. What one
scheduler could give that has a core to itself is computed: its busiest thread is never more than busy.

Engines report once a second whether anybody asks or not: what that takes is measured at rest.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import linear_regression, median
from typing import Any

from app.config import ApplicationConfig
from app.flow.estimate import nearest_rank
from benchmarks import lease_cluster
from benchmarks.lease_cluster import FIRST_TOKENS, SCHEDULER, TARGETS
from benchmarks.lease_parts import Asked, Connect, Window

Json = dict[str, Any]
WARM_UP_S = 1.5
# At rest: few events a second make short windows uneven.
REST_S = 12.0
# What a request of the bar may wait for its lease.
P99_BAR_S = 0.02


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement. CPU is microseconds a lease: of the scheduler's threads together, of its busiest, of
    the gateways."""

    target: str
    gateways: int
    streams: int
    leases_per_s: float
    p50_ms: float
    p99_ms: float
    scheduler_us: float
    busiest_thread_us: float
    gateways_us: float


@dataclass(frozen=True, slots=True)
class Capacity:
    """Computed. `leases_per_s`: one scheduler, its busiest thread alone on a core, P99 within the bar."""

    target: str
    gateways: int
    busiest_thread_us: float
    leases_per_s: float
    replicas: int
    gpus: int
    asking_gateways: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gateways", type=int, nargs="+", default=[1, 10, 30])
    parser.add_argument("--more-gateways", type=int, nargs="*", default=[100], help="only computed")
    parser.add_argument(
        "--streams", type=int, nargs="+", default=[8, 32], help="of all gateways together; one each at least"
    )
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS)
    parser.add_argument("--engines", type=int, default=8, help="that report")
    parser.add_argument(
        "--resting-engines", type=int, nargs="*", default=[8, 300], help="that report while nobody asks"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument(
        "--requests-per-s", type=float, default=8.0, help="of a replica, for what is computed"
    )
    parser.add_argument("--gpus", type=int, default=8, help="of a replica, to compute")


def run(options: argparse.Namespace) -> Json:
    for gateways, streams in left_out(options.gateways, options.streams):
        print(
            f"not measured: {streams} streams of {gateways} gateways, a stream each at least", file=sys.stderr
        )
    runs = []
    with lease_cluster.cluster():
        for name in options.targets:
            runs += _of_target(name, options)
        rest = {str(engines): _at_rest(engines, options) for engines in options.resting_engines}
    computed = [
        asdict(capacity(one, options.requests_per_s, options.gpus))
        for name in (SCHEDULER, FIRST_TOKENS)
        for one in with_more(name, runs, options.more_gateways)
    ]
    return {"runs": [asdict(one) for one in runs], "computed": computed, "rest": rest} | {
        name: getattr(options, name) for name in ("engines", "seconds", "rounds", "requests_per_s", "gpus")
    }


def _at_rest(engines: int, options: argparse.Namespace) -> float:
    """Of a core, by a scheduler to which so many report and that nobody asks."""
    with lease_cluster.target(SCHEDULER, _config(options), engines) as (_, process):
        time.sleep(WARM_UP_S)
        return lease_cluster.at_rest(REST_S, process)


def left_out(gateways: Sequence[int], streams: Sequence[int]) -> list[tuple[int, int]]:
    """Gateways and streams of which some gateways would have none. ValueError where nothing else is left of a
    number that was asked for."""
    if max(gateways) > max(streams):
        raise ValueError(f"gateways: {max(gateways)} need as many streams, and the most are {max(streams)}")
    if min(streams) < min(gateways):
        raise ValueError(f"streams: {min(streams)} are too few for {min(gateways)} gateways")
    return [(some, few) for some in gateways for few in streams if few < some]


def _of_target(name: str, options: argparse.Namespace) -> list[Run]:
    with lease_cluster.target(name, _config(options), options.engines) as (connect, process):
        return [
            one
            for gateways in options.gateways
            for one in _of_gateways(name, gateways, connect, process, options)
        ]


def _of_gateways(
    name: str, gateways: int, connect: Connect, process: str, options: argparse.Namespace
) -> list[Run]:
    """No more are there than are measured: an idle one costs CPU too."""
    runs = []
    with lease_cluster.gateways(connect, gateways, name) as actors:
        for streams in (streams for streams in options.streams if streams >= gateways):
            rounds = []
            for _ in range(options.rounds):
                begin_s = time.time() + WARM_UP_S
                window = Window(begin_s, begin_s + options.seconds)
                taken = lease_cluster.ask(actors, streams, window, process)
                rounds.append(measured(name, streams, options.seconds, *taken))
            runs.append(middle(rounds))
            print(runs[-1], file=sys.stderr)
    return runs


def _config(options: argparse.Namespace) -> ApplicationConfig:
    # A place for everybody, on any engine.
    engine = {"device": "cpu", "max_model_len": 1024, "max_num_batched_tokens": 16384}
    engine["max_num_seqs"] = 2 * max(options.streams)
    model = {"name": "none", "source": "none"}
    return ApplicationConfig.model_validate({"model": model, "engine": engine, "open_without_keys": True})


def measured(
    target: str, streams: int, seconds: float, asked: Sequence[Asked], cpu_s: float, busiest_s: float
) -> Run:
    waits_s = sorted(wait_s for one in asked for wait_s in one.waits_s)
    count = len(waits_s)
    return Run(
        target,
        gateways=len(asked),
        streams=streams,
        leases_per_s=count / seconds,
        p50_ms=nearest_rank(waits_s, 0.5) * 1000,
        p99_ms=nearest_rank(waits_s, 0.99) * 1000,
        scheduler_us=cpu_s / count * 1e6,
        busiest_thread_us=busiest_s / count * 1e6,
        gateways_us=sum(one.cpu_s for one in asked) / count * 1e6,
    )


def middle(rounds: Sequence[Run]) -> Run:
    """The median of each figure."""
    first, *_ = rounds
    names = [name for name, value in asdict(first).items() if isinstance(value, float)]
    figures = {name: median(getattr(one, name) for one in rounds) for name in names}
    return Run(target=first.target, gateways=first.gateways, streams=first.streams, **figures)


def capacity(one: Run, requests_per_s: float, gpus: int) -> Capacity:
    """Where a scheduler stops. One thread that serves leases one by one, taking `busiest_thread_us` each in
    the mean, exponential (M/M/1): P99 of wait and service is ln 100 / (service rate - arrival rate)."""
    service_per_s = 1e6 / one.busiest_thread_us
    leases_per_s = max(0.0, service_per_s - math.log(100) / P99_BAR_S)
    replicas = int(leases_per_s / requests_per_s)
    asking = leases_per_s * one.gateways_us / 1e6
    return Capacity(
        one.target, one.gateways, one.busiest_thread_us, leases_per_s, replicas, replicas * gpus, asking
    )


def with_more(target: str, runs: Sequence[Run], more_gateways: Sequence[int]) -> list[Run]:
    """Of its runs with most streams those that were measured, and others with more gateways: the costs of a
    lease as a straight line over the gateways, throughput and waits not known (NaN). The more gateways, the
    fewer leases in a frame, so that costs grow, and ever more slowly: the line is above them."""
    most = max((one.streams for one in runs), default=0)
    taken = [one for one in runs if one.target == target and one.streams == most]
    if len({one.gateways for one in taken}) < 2:
        return taken
    counts = [one.gateways for one in taken]

    def at(gateways: int, costs_us: list[float]) -> float:
        slope, intercept = linear_regression(counts, costs_us)
        return slope * gateways + intercept

    names = ("scheduler_us", "busiest_thread_us", "gateways_us")
    return taken + [
        Run(
            target,
            gateways,
            most,
            *(math.nan,) * 3,
            **{name: at(gateways, [getattr(one, name) for one in taken]) for name in names},
        )
        for gateways in more_gateways
    ]


def table(figures: Json) -> str:
    """Markdown: what was measured, then what is computed from it."""
    lines = [
        f"{figures['engines']} engines that report; medians of {figures['rounds']} times "
        f"{figures['seconds']:g} s.",
        "",
        "| asked | gateways | streams in all | leases/s | P50 ms | P99 ms | scheduler's CPU us a lease "
        "| its busiest thread | gateways' CPU us a lease |",
        "| --- " * 9 + "|",
    ]
    for one in figures["runs"]:
        cells = [one["target"], str(one["gateways"]), str(one["streams"]), f"{one['leases_per_s']:,.0f}"]
        cells += [f"{one[name]:.1f}" for name in ("p50_ms", "p99_ms")]
        cells += [f"{one[name]:.0f}" for name in ("scheduler_us", "busiest_thread_us", "gateways_us")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Computed: one scheduler with a core for itself, P99 below {P99_BAR_S * 1000:.0f} ms, at "
        f"{figures['requests_per_s']:g} requests/s a replica of {figures['gpus']} GPUs.",
        "",
        "| asked | gateways | busiest thread us a lease | leases/s | replicas | GPUs "
        "| gateways that only ask, a core each |",
        "| --- " * 7 + "|",
    ]
    lines += [
        f"| {one['target']} | {one['gateways']} | {one['busiest_thread_us']:.0f} "
        f"| {one['leases_per_s']:,.0f} | {one['replicas']:,} | {one['gpus']:,} "
        f"| {one['asking_gateways']:.1f} |"
        for one in figures["computed"]
    ]
    if figures["rest"]:
        shares = [f"{float(share):.1%} with {engines}" for engines, share in figures["rest"].items()]
        lines += ["", f"At rest the scheduler takes of a core, by engines that report: {', '.join(shares)}."]
    return "\n".join(lines)
