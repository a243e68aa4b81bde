"""What a plan delivers on a workload: capacity under an SLO, and latency percentiles at a rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.flow.estimate import nearest_rank
from placement.simulator import Served, Simulation
from placement.step_time import StepModel, decode
from placement.throughput import steady_batch
from placement.workload import Arrivals, Workload, WorkloadSpec, poisson_times_s, uniform_asks


@dataclass(frozen=True, slots=True)
class Slo:
    """Promised percentiles, milliseconds; None: not promised."""

    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    tpot_p50_ms: float | None = None
    tpot_p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of one simulated run, milliseconds, and how much the cache had to be taken back."""

    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float
    preemptions: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """Most requests a second that one replica carries in steady state within the TPOT promise."""

    requests_per_s: float
    running: int
    tpot_ms: float
    limit: str  # what stops it: "TPOT", "KV cache", "max_running", "prefill"


def parse_slo(text: str) -> Slo:
    """ "ttft_p50=500,tpot_p99=100", milliseconds. ValueError names what is wrong."""
    values: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        field = f"{name.strip()}_ms"
        if field not in Slo.__dataclass_fields__:
            raise ValueError(f"slo: {name!r} is not one of ttft_p50, ttft_p99, tpot_p50, tpot_p99")
        try:
            values[field] = float(number)
        except ValueError as error:
            raise ValueError(f"slo: {part!r} has no number") from error
        if values[field] <= 0:
            raise ValueError(f"slo: {part!r} is not positive")
    return Slo(**values)


def cycle_us(steps: StepModel, running: int, prompt_tokens: int, output_tokens: int) -> float:
    """Time in which each running request gets one token, in steady state.

    With PP stages the requests are split over as many microbatches: a cycle is the way of one of them through
    all stages, or the busiest stage serving all, whichever is longer. Prompts come whole, not spread evenly:
    a microbatch can't overtake one that carries a chunk, so all wait for it in stage after stage (`_convoy`).
    """
    stages = len(steps.layer_counts)
    share = max(1, -(-running // stages))
    batch = steady_batch(share, prompt_tokens, output_tokens)
    times = steps.stage_times_us(batch)
    batches = min(stages, running)
    plain = steps.stage_times_us(decode(share, prompt_tokens + output_tokens / 2))
    chunks = -(-prompt_tokens // steps.plan.max_batched_tokens)
    behind_others = (_convoy(batches, chunks) - 1) * batches * max(0.0, max(times) - max(plain))
    return max(sum(times) + steps.host_us(batch) + behind_others, batches * max(times))


def _convoy(stages: int, chunks: int) -> float:
    """How many times its own stage time a prompt delays every microbatch.

    A prompt of k chunks takes S - 1 + k chunk times through S stages; those of several microbatches overlap,
    to (S + 1) / 2S of it in simulated runs at 30 to 80 % load.
    """
    return max(1.0, (stages - 1 + chunks) / chunks * (stages + 1) / (2 * stages))


def expected_running(steps: StepModel, workload: WorkloadSpec, requests_per_s: float, most: int) -> int:
    """Requests in flight at a rate (Little's law); at most `most`."""
    prompt, output = workload.prompt_tokens, workload.output_tokens
    running = 1
    for _ in range(20):  # converges in a few rounds while the rate is below capacity
        residence_s = output * cycle_us(steps, running, prompt, output) / 1e6
        following = max(1, min(most, round(requests_per_s * residence_s)))
        if following == running:
            break
        running = following
    return running


def steady_capacity(steps: StepModel, kv_tokens: int, workload: WorkloadSpec, slo: Slo) -> Capacity:
    """Search the running batch: tokens a second grow with it, and so does the time of each token."""
    prompt, output = workload.prompt_tokens, workload.output_tokens
    by_cache = int(kv_tokens / (prompt + output / 2))
    largest = min(steps.plan.max_running, by_cache)
    promised = slo.tpot_p50_ms or slo.tpot_p99_ms or float("inf")
    if largest < 1:
        return Capacity(0.0, 0, 0.0, "KV cache")

    def token_ms(running: int) -> float:
        return cycle_us(steps, running, prompt, output) / 1e3

    if token_ms(1) > promised:
        return Capacity(0.0, 0, token_ms(1), "TPOT")
    low, high = 1, largest
    while low < high:  # token time grows with the batch: the largest that keeps the promise
        middle = (low + high + 1) // 2
        low, high = (middle, high) if token_ms(middle) <= promised else (low, middle - 1)
    limit = "TPOT" if low < largest else ("KV cache" if by_cache <= steps.plan.max_running else "max_running")
    return Capacity(low / output / (token_ms(low) / 1e3), low, token_ms(low), limit)


def simulate(
    steps: StepModel,
    kv_tokens: int,
    workload: WorkloadSpec,
    requests_per_s: float,
    *,
    requests: int,
    seed: int,
) -> Latency:
    """Poisson arrivals at one replica, exact lengths; the first third warms up and is not counted.

    ValueError when a request can't fit into the cache.
    """
    asks = uniform_asks(
        requests, workload.prompt_tokens, workload.output_tokens, shortest_share=1.0, seed=seed
    )
    if workload.concurrency is not None:
        arrivals = Arrivals(concurrency=workload.concurrency)
    else:
        arrivals = Arrivals(times_s=poisson_times_s(requests, requests_per_s, seed=seed))
    plan = steps.plan
    simulation = Simulation(steps, kv_tokens, plan.max_batched_tokens, plan.max_running)
    return summarise(simulation.run(Workload(asks, arrivals)), simulation.preemptions)


def summarise(served: Sequence[Served], preemptions: int) -> Latency:
    """Percentiles over the requests sent after the first third."""
    by_sending = sorted(served, key=lambda request: request.sent_s)
    counted = by_sending[len(by_sending) // 3 :]
    ttft = [request.ttft_s * 1e3 for request in counted]
    tpot = [request.tpot_s * 1e3 for request in counted]
    return Latency(
        ttft_p50_ms=nearest_rank(ttft, 0.5),
        ttft_p99_ms=nearest_rank(ttft, 0.99),
        tpot_p50_ms=nearest_rank(tpot, 0.5),
        tpot_p99_ms=nearest_rank(tpot, 0.99),
        preemptions=preemptions,
    )


def broken_promises(latency: Latency, slo: Slo) -> list[str]:
    """Each promise that the figures don't keep, as a sentence."""
    out = []
    for name in Slo.__dataclass_fields__:
        promised, predicted = getattr(slo, name), getattr(latency, name)
        if promised is not None and predicted > promised:
            label = name.removesuffix("_ms").replace("_", " ").upper()
            out.append(f"{label} {predicted:.0f} ms is above {promised:g} ms")
    return out
