"""Cost of the decision core: one cycle is submit, dispatch, first token and close of one ticket.

A backlog of `queued` tickets from `tenants` tenants in three classes is kept constant: each cycle closes one
lease, which dispatches the next ticket, and submits a new one. Where engines are half full instead, nobody
waits and one of all is chosen; a report names what its engine runs. CPU time of this process, so that other
work on the machine counts less; the best of `repeats` runs.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections import deque
from collections.abc import Callable, Sequence

from app.flow import COMPILED
from app.flow.config import ClassPolicy, FlowConfig
from app.flow.controller import FlowController, Limits
from app.flow.outcome import Outcome
from app.flow.ticket import Action, EngineMetrics, Granted, ReplicaReport, Ticket, Usage

REPLICAS = 8
PER_REPLICA = 64
# One cycle a millisecond of simulated time.
CYCLE_S = 0.001
# So long that nothing is refused or expires: the full path is measured.
BUDGET_S = 1e9
CLASSES = ("interactive", "standard", "batch")
METRICS = EngineMetrics(running=PER_REPLICA, waiting=0, kv_use=0.5, itl_s=0.02)


def _config() -> FlowConfig:
    boosts = (1.0, 0.5, 0.0)
    classes = tuple(
        ClassPolicy(name, boost_s=boost, min_share=0.1, ttft_budget_s=BUDGET_S)
        for name, boost in zip(CLASSES, boosts, strict=True)
    )
    return FlowConfig(classes=classes)


def _tickets(count: int, tenants: int, start_s: float, first: int) -> list[Ticket]:
    source = random.Random(first)
    return [
        Ticket(
            ticket_id=f"t{first + index}",
            priority=0,
            arrived_s=start_s + index * CYCLE_S,
            tenant=f"tenant-{source.randrange(tenants)}",
            class_name=CLASSES[source.randrange(3)],
            prompt_tokens=source.randrange(16, 2048),
            max_output_tokens=256,
            size_bytes=4096,
        )
        for index in range(count)
    ]


def _controller(queued: int, engines: int, seed: int) -> FlowController:
    """Of so many engines that run nothing."""
    limits = Limits(queued, BUDGET_S, PER_REPLICA, lease_ttl_s=60.0, replica_ttl_s=BUDGET_S)
    controller = FlowController(limits, _config(), random.Random(seed).random)
    for index in range(engines):
        controller.report(ReplicaReport(f"r{index}", frozenset(), metrics=METRICS), 0.0)
    return controller


def cost_per_cycle_s(queued: int, tenants: int, cycles: int, seed: int = 0) -> float:
    """CPU seconds a cycle, with `queued` tickets waiting throughout."""
    return _spent_s(prepared(queued, tenants, cycles, seed)) / cycles


def _spent_s(run: Callable[[], None]) -> float:
    # What is there is old, as in a Scheduler that has run for a while; the collector stays on.
    gc.collect()
    gc.freeze()
    started_s = time.process_time()
    run()
    spent_s = time.process_time() - started_s
    gc.unfreeze()
    return spent_s


def fleet_costs_s(engines: int, tenants: int, cycles: int, seed: int = 0) -> tuple[float, float]:
    """CPU seconds a cycle and a report, with so many engines, half full."""
    controller = _controller(1, engines, seed)
    running: deque[str] = deque()
    for ticket in _tickets(engines * PER_REPLICA // 2, tenants, 0.0, 0):
        _follow(running, controller.submit(ticket, 0.0))
        controller.first_tokens([(ticket.ticket_id, 0.0)], 0.0)
    tickets = _tickets(cycles, tenants, 1.0, 1_000_000)

    def cycle() -> None:
        for ticket in tickets:
            _cycle(controller, running, ticket)

    cycle_s = _spent_s(cycle) / cycles
    leases = {name: frozenset(one.in_flight) for name, one in controller._pool.replicas.items()}

    def report() -> None:
        for name, live in leases.items():
            controller.report(ReplicaReport(name, live, metrics=METRICS), tickets[-1].arrived_s)

    return cycle_s, _spent_s(report) / engines


def prepared(queued: int, tenants: int, cycles: int, seed: int = 0) -> Callable[[], None]:
    """A core with its backlog; the call runs the cycles."""
    controller = _controller(queued + 1, REPLICAS, seed)
    running: deque[str] = deque()
    backlog = _tickets(queued + REPLICAS * PER_REPLICA, tenants, 0.0, 0)
    for ticket in backlog:
        _follow(running, controller.submit(ticket, ticket.arrived_s))
    tickets = _tickets(cycles, tenants, len(backlog) * CYCLE_S, 1_000_000)

    def run() -> None:
        for ticket in tickets:
            _cycle(controller, running, ticket)

    return run


def _cycle(controller: FlowController, running: deque[str], ticket: Ticket) -> None:
    now_s = ticket.arrived_s
    done = running.popleft()
    controller.first_tokens([(done, now_s)], now_s)
    usage = Usage(ticket.prompt_tokens, 100)
    _follow(running, controller.close(done, Outcome.COMPLETED, now_s, usage))
    _follow(running, controller.submit(ticket, now_s))


def _follow(running: deque[str], actions: list[Action]) -> None:
    for action in actions:
        if not isinstance(action, Granted):
            raise AssertionError(f"the benchmark must not be refused: {action}")
        running.append(action.lease.ticket_id)


def measure(repeats: int, cycles: int, fleets: Sequence[int] = ()) -> dict[str, float | bool]:
    def best(queued: int) -> float:
        return min(cost_per_cycle_s(queued, 1000, cycles, seed) for seed in range(repeats))

    small, middle, large = best(1_000), best(10_000), best(100_000)
    return {
        "compiled": COMPILED,
        "cycles_per_s": round(1 / middle),
        "cost_ratio_100k_to_1k": round(large / small, 3),
        "cycle_us_1k": round(small * 1e6, 2),
        "cycle_us_10k": round(middle * 1e6, 2),
        "cycle_us_100k": round(large * 1e6, 2),
        **{key: value for engines in fleets for key, value in _of_fleet(engines, repeats, cycles).items()},
    }


def _of_fleet(engines: int, repeats: int, cycles: int) -> dict[str, float]:
    costs_s = [fleet_costs_s(engines, 1000, cycles, seed) for seed in range(repeats)]
    cycle_s, report_s = (min(each) for each in zip(*costs_s, strict=True))
    return {
        f"cycle_us_{engines}_engines": round(cycle_s * 1e6, 2),
        f"report_us_{engines}_engines": round(report_s * 1e6, 2),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cycles", type=int, default=20_000)
    parser.add_argument("--engines", type=int, nargs="*", default=[8, 125, 1000], help="half full")


def run(options: argparse.Namespace) -> dict[str, float]:
    return measure(options.repeats, options.cycles, options.engines)


def table(figures: dict[str, float]) -> str:
    return "\n".join(f"{name:>26} {value:g}" for name, value in figures.items())
