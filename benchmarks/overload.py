"""Beside its peers above capacity: an open loop on a real model, and promises for the first token.

The capacity is measured first, by a closed loop on bare vLLM that keeps every engine full; the offered load
is a multiple of it. Every system sees the same requests at the same times (same seeds): Poisson arrivals,
30 % interactive, 40 % standard, 30 % batch, tenants by Zipf, every prompt unique. One server runs at a time;
the order of the systems, and that of the loads, turns by one each round; what arrives in the first
`--warm-up-s` of a run is sent and not counted. A request is kept when its first token came within its class's
budget and the others at the pace that the simulation asks for. The peers ignore `service_tier` and the keys,
which is their setting; `vllm-priority` is sent each class's rank as vLLM's own `priority`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.config_file import load_applications
from app.flow.config import default_classes
from app.load.loops import ClosedLoop, OpenLoop, run_load
from app.load.streams import COMPLETED, PATHS, Answer, Call
from benchmarks import markdown
from benchmarks.arrivals import Lengths, api_keys, at_once, calls, poisson
from benchmarks.configs import changed
from benchmarks.scoring import Json, Run, beside, score
from benchmarks.servers import StartError
from benchmarks.systems import System, systems, turned
from placement.simulation.ablations import ABLATIONS
from placement.simulation.summary import Promise
from placement.simulation.workload import Mix, Request

CLASSES = tuple(policy.name for policy in default_classes())
SHARES = (0.3, 0.4, 0.3)
LENGTHS = Lengths()
# A server's queue and the client's clean-up are empty after it, and the estimates of one load do not decide
# about the next.
SETTLE_S = 5.0
# Of a closed loop: the engines fill, and caches of code.
CAPACITY_WARM_UP_SHARE = 1 / 3
# Requests a stream that no capacity measurement comes to the end of.
CAPACITY_REQUESTS_PER_STREAM = 200
# Before the open loop, requests a stream that are sent and not counted.
WARM_UP_REQUESTS_PER_STREAM = 1
OURS, BARE = "ours", "vllm"
# The options that the figures repeat.
STATED = (
    *("loads", "rounds", "duration_s", "warm_up_s", "client_timeout_s", "replicas", "engine_threads"),
    *("tenants", "zipf", "seed", "endpoint", "returns", "prompt_tokens", "output_tokens"),
)


@dataclass(frozen=True, slots=True)
class Contestant:
    """A system with the configuration that it is started with."""

    name: str
    system: System
    config: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("serve_configs/smollm2-cpu.yaml"))
    parser.add_argument(
        "--loads", type=float, nargs="+", default=[0.5, 1.0, 1.5, 2.0, 3.0], help="of capacity"
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=list(systems(1)),
        default=[OURS, BARE, "vllm-priority", "vllm-queue-limit", "ray-serve-llm"],
    )
    parser.add_argument("--ablate", nargs="+", choices=list(ABLATIONS), default=[], help="ours without it")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--duration-s", type=float, default=180.0, help="of arrivals, a load")
    parser.add_argument("--warm-up-s", type=float, default=30.0, help="of arrivals that do not count")
    parser.add_argument("--ttft-budgets-s", type=float, nargs=3, default=[1.0, 5.0, 60.0], metavar="S")
    parser.add_argument("--capacity", type=float, metavar="REQUESTS_PER_S", help="instead of measuring it")
    parser.add_argument("--capacity-s", type=float, default=120.0, help="for which it is measured")
    parser.add_argument("--client-timeout-s", type=float, default=90.0, help="after which a client gives up")
    parser.add_argument("--replicas", type=int, default=1, help="engines, of each system")
    parser.add_argument("--engine-threads", type=int, help="of one engine; its share of the cores")
    parser.add_argument(
        "--vllm-max-queued", type=int, help="for vllm-queue-limit; twice what the engines run at a time"
    )
    parser.add_argument("--tenants", type=int, default=8)
    parser.add_argument("--zipf", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--endpoint", choices=list(PATHS), default="completions")
    parser.add_argument("--returns", action="store_true", help="refused clients return once, as told")
    parser.add_argument(
        "--prompt-tokens", type=int, default=LENGTHS.prompt_median, help="median; the maximum goes with it"
    )
    parser.add_argument(
        "--output-tokens", type=int, default=LENGTHS.output_median, help="median; the maximum goes with it"
    )
    parser.add_argument(
        "--without-flow", action="store_true", help="ours without its sections `flow` and `api_keys`"
    )


def run(options: argparse.Namespace) -> Json:
    options.engine_threads = options.engine_threads or max(1, (os.cpu_count() or 1) // options.replicas)
    with tempfile.TemporaryDirectory() as folder:
        return _Overload(options, Path(folder)).run()


class _Overload:
    """One run of the benchmark."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        (application,) = load_applications(options.config)
        self._model = application.args.model.name
        self._streams = application.args.engine.max_num_seqs * options.replicas
        self._lengths = Lengths.about(options.prompt_tokens, options.output_tokens)
        self._lengths.check(application.args.engine.max_model_len)
        self._mix = Mix(options.tenants, options.zipf, CLASSES, SHARES)
        self._budgets_s = dict(zip(CLASSES, options.ttft_budgets_s, strict=True))
        max_queued = options.vllm_max_queued or 2 * self._streams
        self._systems = systems(max_queued, options.replicas)

    def run(self) -> Json:
        absent = {name: self._systems[name].missing() for name in self._options.systems}
        contestants = [one for one in self._contestants() if not absent.get(one.name)]
        capacity: float = self._options.capacity or self._capacity()
        runs: dict[tuple[str, float], list[Run]] = {}
        for number in range(self._options.rounds):
            for contestant in turned(contestants, number):
                try:
                    for load, one in self._visit(contestant, capacity, number):
                        runs.setdefault((contestant.name, load), []).append(one)
                except StartError as error:
                    # Hours of the others' runs are worth more than an early end.
                    print(error, file=sys.stderr)
                    absent[contestant.name] = str(error).splitlines()[0]
        return {
            "capacity_requests_per_s": capacity,
            "offered": self._offered(),
            "systems": {one.name: one.system.settings for one in contestants},
            "missing": {name: why for name, why in absent.items() if why},
            "runs": self._scores({key: _pooled(several) for key, several in runs.items()}),
        }

    def _scores(self, runs: dict[tuple[str, float], Run]) -> list[Json]:
        """Load by load; with bare vLLM among the systems, also beside it."""
        scores: list[Json] = []
        for (name, load), run in sorted(runs.items(), key=lambda item: item[0][1]):
            scores.append({"system": name, "load": load, **score(run, Promise(self._budgets_s))})
            if name != BARE and (BARE, load) in runs:
                scores[-1]["beside_bare"] = beside(run, runs[BARE, load])
        return scores

    def _offered(self) -> Json:
        stated = {name: getattr(self._options, name) for name in STATED}
        return {
            **stated,
            "classes": dict(zip(CLASSES, SHARES, strict=True)),
            "ttft_budgets_s": self._budgets_s,
        }

    def _contestants(self) -> Iterator[Contestant]:
        plain = self._configured("config", {})
        ours = plain if self._options.without_flow else self._configured(OURS, self._flow())
        for name in self._options.systems:
            yield Contestant(name, self._systems[name], ours if name.startswith(OURS) else plain)
        for name in self._options.ablate:
            config = self._configured(name, self._flow(name))
            yield Contestant(f"{OURS}, {name}", self._systems[OURS], config)

    def _flow(self, ablation: str = "") -> Json:
        """The sections of ours. Boosts as in its defaults: the sum of the budgets of the classes below."""
        budgets_s, off = list(self._budgets_s.values()), ABLATIONS.get(ablation, {})
        classes = [
            {
                "name": policy.name,
                "boost_s": sum(budgets_s[rank + 1 :]),
                "min_share": policy.min_share,
                "ttft_budget_s": budgets_s[rank],
                "reserve_roots": policy.reserve_roots,
                **off.get("classes", {}),
            }
            for rank, policy in enumerate(default_classes())
        ]
        tenants = [f"tenant-{rank:02d}" for rank in range(1, self._options.tenants + 1)]
        flow = {"limit": {"itl_budget_s": Promise({}).tpot_s}, **off, "classes": classes}
        return {"flow": flow, "api_keys": api_keys(tenants), "status": {"open": False}}

    def _configured(self, name: str, sections: Json) -> Path:
        engines = {"min": self._options.replicas, "max": self._options.replicas}
        return changed(self._options.config, self._folder, name, {"replicas": engines, **sections})

    def _capacity(self) -> float:
        """Requests a second with every engine full, after the warm-up."""
        duration_s = self._options.capacity_s
        requests = at_once(self._streams * CAPACITY_REQUESTS_PER_STREAM, "capacity", self._lengths, self._mix)
        loop = ClosedLoop(calls(requests, self._model, self._options.endpoint), self._streams, duration_s)
        with self._systems[BARE].start(
            self._configured("capacity", {}), self._options.engine_threads
        ) as server:
            answers = run_load(server.url, loop).answers
        began_s = min(answer.due_s for answer in answers)
        start_s, end_s = began_s + duration_s * CAPACITY_WARM_UP_SHARE, began_s + duration_s
        ends_s = [one.due_s + one.ended_s for one in answers if one.outcome == COMPLETED]
        rate: float = sum(start_s <= ended_s < end_s for ended_s in ends_s) / (end_s - start_s)
        if not rate:
            outcomes = dict(Counter(one.outcome for one in answers))
            raise RuntimeError(f"capacity: nothing completed in time ({outcomes}); --capacity-s is too short")
        print(f"capacity: {rate:.2f} requests a second", file=sys.stderr)
        return rate

    def _visit(self, contestant: Contestant, capacity: float, number: int) -> Iterator[tuple[float, Run]]:
        """Starts it, warms it up, and offers it every load."""
        with contestant.system.start(contestant.config, self._options.engine_threads) as server:
            count = self._streams * WARM_UP_REQUESTS_PER_STREAM
            warm_up = at_once(count, f"warm-up {number}", self._lengths, self._mix)
            run_load(server.url, ClosedLoop(self._calls(warm_up, contestant.system), self._streams))
            for load in turned(self._options.loads, number):
                time.sleep(SETTLE_S)
                yield load, self._offer(contestant, server.url, load, capacity, number)

    def _offer(self, contestant: Contestant, url: str, load: float, capacity: float, number: int) -> Run:
        options = self._options
        seed = f"{options.seed}.{number}.{load}"
        requests = poisson(options.duration_s, load * capacity, seed, self._lengths, self._mix)
        ready = self._calls(requests, contestant.system)
        loop = OpenLoop(ready, options.client_timeout_s, options.returns)
        answers = run_load(url, loop).answers
        completed = sum(one.outcome == COMPLETED for one in answers)
        print(f"{contestant.name}, load {load}: {completed} of {len(requests)} completed", file=sys.stderr)
        return Run({one.request_id: one for one in requests}, answers, options.warm_up_s)

    def _calls(self, requests: Iterable[Request], system: System) -> list[Call]:
        ranks = {name: rank for rank, name in enumerate(CLASSES)} if system.prioritised else {}
        return calls(requests, self._model, self._options.endpoint, ranks)


def _pooled(runs: Sequence[Run]) -> Run:
    """The rounds of one system and load as one run: ids tell the rounds apart."""
    requests: dict[str, Request] = {}
    answers: list[Answer] = []
    for one in runs:
        requests |= one.requests
        answers += one.answers
    return Run(requests, answers, runs[0].warm_up_s)


def table(figures: Json) -> str:
    """Markdown: the systems' settings, promises, and refusals."""
    offered = figures["offered"]
    budgets = ", ".join(f"{name} {budget:g} s" for name, budget in offered["ttft_budgets_s"].items())
    lines = [
        f"Capacity {figures['capacity_requests_per_s']:.2f} requests/s, {offered['replicas']} engine(s) of "
        f"{offered['engine_threads']} thread(s); first token within: {budgets}.",
        "",
        *(f"- {name}: {settings}" for name, settings in figures["systems"].items()),
        *(f"- {name}: {why}" for name, why in figures["missing"].items()),
        "",
        *markdown.lines(_row(one) | _promises(one) for one in figures["runs"]),
        "",
        *markdown.lines(_row(one) | _others(one) for one in figures["runs"]),
    ]
    beside_bare = [_row(one) | _beside(one["beside_bare"]) for one in figures["runs"] if "beside_bare" in one]
    if beside_bare:
        lines += [
            "",
            "Times that bare vLLM took for the same requests, of those that both completed: medians",
        ]
        lines += ["[least, largest of the rounds]:", ""]
        lines += markdown.lines(beside_bare)
    return "\n".join(lines)


def _row(one: Json) -> dict[str, str]:
    return {"load": f"{one['load']:g}", "system": one["system"]}


def _promises(one: Json) -> dict[str, str]:
    """Shares of offered (and of admitted) requests whose promise was kept."""
    cells = {"goodput": f"{one['goodput_share']:.3f}"}
    for name, row in one["classes"].items():
        cells[f"{name} kept (of admitted)"] = f"{row['attainment']:.3f} ({row['kept_of_admitted']:.3f})"
    for name, row in one["classes"].items():
        cells[f"{name} longest wait s"] = f"{row['longest_wait_s']:.1f}"
    return cells


def _beside(classes: Json) -> dict[str, str]:
    return {
        f"{name} {title}": markdown.interval(classes.get(name, {}).get(figure), 2)
        for name in CLASSES
        for title, figure in (("TTFT", "ttft_ratio"), ("E2E", "e2e_ratio"))
    }


def _others(one: Json) -> dict[str, str]:
    refusals, prediction, returned = one["refusals"], one["prediction"], one["returned"]
    hint = refusals["hint_median_s"]
    return {
        "offered": str(one["offered"]),
        "failed": f"{one['failed']['share']:.3f}",
        "refused": f"{refusals['share']:.3f}",
        "refused in ms P50": markdown.figure(refusals["time_p50_ms"], ".0f"),
        "P99": markdown.figure(refusals["time_p99_ms"], ".0f"),
        "hint s, median": "-" if hint is None else f"{hint:g}",
        "wasted": f"{one['wasted_share']:.3f}",
        "min Jain": f"{min(one['jain'].values()):.3f}",
        "TTFT predicted within 25 %": f"{prediction['within_25_percent']:.3f}"
        if prediction["predicted"]
        else "-",
        "returns admitted": f"{returned['admitted_share']:.3f}" if returned["returned"] else "-",
        "latest send ms": f"{one['latest_send_s'] * 1000:.0f}",
    }
