"""One experiment: a workload at a multiple of capacity, a policy, a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from app.flow.config import FlowConfig, default_classes
from app.flow.controller import FlowController, Limits
from placement.simulation.ablations import ABLATIONS, without
from placement.simulation.engine import ENGINES, EngineShape
from placement.simulation.noise import Noise
from placement.simulation.peers import FifoStaticCap, RoundRobin, StrictPriorityTtl
from placement.simulation.simulator import Policy, Setup, Simulator, capacity_per_s
from placement.simulation.summary import Json, promise_of, summarise
from placement.simulation.workload import Mix, Request, at_rate, spread

# The first tenth of the arrivals fills the engines and the estimates.
WARM_UP_SHARE = 0.1
# llm-d reads its endpoints' metrics every 50 ms; a tenth of a second costs half as many events.
PEER_REPORT_S = 0.1
# Ray Serve has no default for the queue (unbounded); this is the project's own bound.
FIFO_MAX_QUEUED = 512

Make = Callable[[EngineShape, int], Policy]


@dataclass(frozen=True, slots=True)
class Experiment:
    """All that decides a result; two equal experiments give equal bytes."""

    policy: str = "flow"
    engine: str = "gpu-like"
    replicas: int = 4
    seed: int = 0
    # Offered load over capacity.
    load: float = 2.0
    returns: bool = False
    # Each has its part of the replicas, and of the requests whichever its gateways happen to get.
    schedulers: int = 1
    # Engines that are not quite what the model says, and words that take their time.
    noisy: bool = False


def flow_controller(
    engine: EngineShape, seed: int, change: Callable[[FlowConfig], FlowConfig] = lambda config: config
) -> FlowController:
    """The decision core for such engines."""
    limits = Limits(
        max_queued=20_000,
        max_queue_wait_s=60.0,
        requests_per_replica=engine.max_num_seqs,
        lease_ttl_s=60.0,
        replica_ttl_s=5.0,
        batched_tokens=engine.max_num_batched_tokens,
        prompt_step_tokens=engine.prompt_step_tokens,
    )
    return FlowController(limits, change(FlowConfig()), random.Random(f"flow {seed}").random)


def _without(ablation: str) -> Make:
    return lambda engine, seed: flow_controller(engine, seed, lambda config: without(config, ablation))


POLICIES: dict[str, Make] = {
    "flow": flow_controller,
    "fifo-cap": lambda engine, seed: FifoStaticCap(engine.max_num_seqs, FIFO_MAX_QUEUED),
    "fifo-cap-64": lambda engine, seed: FifoStaticCap(engine.max_num_seqs, 64),
    "fifo-cap-32": lambda engine, seed: FifoStaticCap(engine.max_num_seqs, 32),
    "fifo-cap-unbounded": lambda engine, seed: FifoStaticCap(engine.max_num_seqs, 10**9),
    "strict-priority-ttl": lambda engine, seed: StrictPriorityTtl([one.name for one in default_classes()]),
    "round-robin": lambda engine, seed: RoundRobin(),
    **{f"flow-{name}": _without(name) for name in ABLATIONS},
}


def _check(experiment: Experiment, requests: Sequence[Request], engine: EngineShape) -> None:
    """Raises ValueError for what can't be simulated."""
    if experiment.replicas < 1:
        raise ValueError(f"replicas: {experiment.replicas} is not positive")
    if not 0 < experiment.load < math.inf:
        raise ValueError(f"load: {experiment.load:g} is not positive")
    if experiment.replicas % experiment.schedulers:
        share = f"{experiment.replicas} replicas among {experiment.schedulers}"
        raise ValueError(f"schedulers: {share} can't be shared out evenly")
    if len(requests) < 2:
        raise ValueError(f"requests: {len(requests)} make no load")
    longest = max(requests, key=lambda one: one.prompt_tokens + one.output_tokens)
    if longest.prompt_tokens + longest.output_tokens > engine.kv_capacity_tokens:
        raise ValueError(
            f"requests: {longest.request_id} has {longest.prompt_tokens} + {longest.output_tokens} tokens, "
            f"and the engine {experiment.engine} holds {engine.kv_capacity_tokens}"
        )


def run(experiment: Experiment, requests: Sequence[Request]) -> Json:
    """Stretch the arrivals to the load, spread them by the seed, and simulate. KeyError: unknown names;
    ValueError: what can't be simulated."""
    engine, make = ENGINES[experiment.engine], POLICIES[experiment.policy]
    _check(experiment, requests, engine)
    capacity = capacity_per_s(engine, requests) * experiment.replicas
    arrivals = spread(at_rate(requests, capacity * experiment.load), Mix(), experiment.seed)
    ours = experiment.policy.startswith("flow")
    of_each = experiment.replicas // experiment.schedulers
    setup = Setup(
        engine,
        of_each,
        1.0 if ours else PEER_REPORT_S,
        experiment.returns,
        noise=Noise() if experiment.noisy else None,
    )
    draw = random.Random(f"schedulers {experiment.seed}")
    parts: list[list[Request]] = [[] for _ in range(experiment.schedulers)]
    for request in arrivals:
        draw.choices(parts)[0].append(request)
    simulators = [
        Simulator(make(engine, experiment.seed), replace(setup, seed=f"{experiment.seed}.{part}"))
        for part in range(experiment.schedulers)
    ]
    records = [
        record for simulator, part in zip(simulators, parts, strict=True) for record in simulator.run(part)
    ]
    warm_up_s = arrivals[0].arrived_s + WARM_UP_SHARE * (arrivals[-1].arrived_s - arrivals[0].arrived_s)
    wasted_tokens = sum(simulator.wasted_tokens for simulator in simulators)
    result = summarise(records, promise_of(default_classes()), warm_up_s, wasted_tokens)
    head: Json = {
        "policy": experiment.policy,
        "engine": experiment.engine,
        "replicas": experiment.replicas,
        "seed": experiment.seed,
        "load": experiment.load,
        "capacity_per_s": round(capacity, 4),
        "duration_s": round(arrivals[-1].arrived_s - arrivals[0].arrived_s, 3),
        "engine_preemptions": sum(simulator.preemptions for simulator in simulators),
    }
    return head | result
