"""What a plan delivers on a workload: capacity under an SLO, and latency percentiles at a rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp

from app.flow.estimate import nearest_rank
from placement.simulator import Simulation
from placement.step_time import Batch, StepModel, decode
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
        if not 0 < values[field] < float("inf"):
            raise ValueError(f"slo: {part!r} is not positive and finite")
    return Slo(**values)


def cycle_us(steps: StepModel, running: int, prompt_tokens: int, output_tokens: int) -> float:
    """Time in which each running request gets one token, in steady state: the average step.

    With PP stages the requests are split over as many microbatches, and none can overtake another: if any of
    those on their way carries a chunk, all wait for it in stage after stage. Prompts come at random, as many
    as requests end; those that come together share a step while the budget lasts.
    """
    stages, budget = len(steps.layer_counts), steps.plan.max_batched_tokens
    share = max(1, -(-running // stages))
    average = steady_batch(share, prompt_tokens, output_tokens)
    if stages == 1:
        return steps.step_us(average)
    batches, chunks = min(stages, running), -(-prompt_tokens // steps.plan.longest_chunk)
    # Whose chunks are among the batches that follow each other through the stages.
    prompts = running / stages / output_tokens * (batches + chunks - 1)
    some = 1 - exp(-prompts)
    beside = (budget - share) // min(prompt_tokens, steps.plan.longest_chunk)
    together = min(max(1, beside), prompts / some)
    plain = decode(share, prompt_tokens + output_tokens / 2)
    chunk = round(together * prompt_tokens / chunks)
    loaded = replace(
        plain,
        prefill_tokens=chunk,
        prefill_sequences=round(together),
        prefill_pairs=chunk * prompt_tokens / 2,
        prefill_context_tokens=round(together * prompt_tokens + chunk) // 2,
        sampled=share + round(together),
    )
    round_us = some * _round_us(steps, loaded, batches) + (1 - some) * _round_us(steps, plain, batches)
    return max(round_us, batches * max(steps.stage_times_us(average)))


def _round_us(steps: StepModel, batch: Batch, batches: int) -> float:
    """A batch's way through all stages, or the busiest stage serving so many of them, whichever is longer."""
    return max(steps.step_us(batch), batches * max(steps.stage_times_us(batch)))


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
    """Latency of so many requests at one replica, exact lengths; the first third warms up and is not counted.

    As many are sent again after them, so that none is served by an engine that empties. ValueError when a
    request can't fit into the cache.
    """
    sent = 2 * requests
    asks = uniform_asks(sent, workload.prompt_tokens, workload.output_tokens, shortest_share=1.0, seed=seed)
    if workload.concurrency is not None:
        arrivals = Arrivals(concurrency=workload.concurrency)
    else:
        arrivals = Arrivals(times_s=poisson_times_s(sent, requests_per_s, seed=seed))
    plan = steps.plan
    simulation = Simulation(
        steps, kv_tokens, plan.max_batched_tokens, plan.max_running, plan.prompt_step_tokens
    )
    served = simulation.run(Workload(asks, arrivals), first=requests)
    by_sending = sorted(served, key=lambda request: request.sent_s)
    counted = by_sending[requests // 3 : requests]
    ttft = [request.ttft_s * 1e3 for request in counted]
    tpot = [request.tpot_s * 1e3 for request in counted]
    return Latency(
        ttft_p50_ms=nearest_rank(ttft, 0.5),
        ttft_p99_ms=nearest_rank(ttft, 0.99),
        tpot_p50_ms=nearest_rank(tpot, 0.5),
        tpot_p99_ms=nearest_rank(tpot, 0.99),
        preemptions=simulation.preemptions,
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
