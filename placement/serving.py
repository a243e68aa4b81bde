"""What a plan delivers on a workload: capacity under an SLO, and latency percentiles at a rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, exp, inf

from app.flow.estimate import nearest_rank
from placement.simulator import Simulation
from placement.step_time import Batch, StepModel, decode
from placement.throughput import steady_batch
from placement.workload import Arrivals, Workload, WorkloadSpec, poisson_times_s, uniform_asks

# A replica that carries less than one request at a time is filled by so many parts of one.
PARTS = 256
# Clients of a closed loop have all begun after so long: a third of what `app validate` measures them for.
START_S = 10.0


@dataclass(frozen=True, slots=True)
class Slo:
    """Promised percentiles, milliseconds; None: not promised."""

    ttft_p50_ms: float | None = None
    ttft_p99_ms: float | None = None
    tpot_p50_ms: float | None = None
    tpot_p99_ms: float | None = None

    @property
    def tightest_tpot_ms(self) -> float:
        """Infinite without a promise."""
        promised = (self.tpot_p50_ms, self.tpot_p99_ms)
        return min((ms for ms in promised if ms is not None), default=inf)


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
    running: float  # below one: in so much of the time one runs
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


def alone_us(steps: StepModel, prompt_tokens: int, output_tokens: int) -> float:
    """Time of a token of a request that nothing else runs beside, microseconds."""
    return steps.step_us(decode(1, prompt_tokens + output_tokens / 2))


def cycle_us(steps: StepModel, running: float, prompt_tokens: int, output_tokens: int) -> float:
    """Time in which each running request gets one token, in steady state: the average step. Microseconds.

    Below one, `running` is the share of the time in which one runs: beside it are the prompts of as few.
    Prompts come at random, as many as requests end; those that come together share a step while the budget
    lasts, and a chunk makes the whole step longer that carries it. With PP stages the requests are split over
    as many microbatches, and none can overtake another: if any of those on their way carries a chunk, all
    wait for it in stage after stage.
    """
    stages, budget = len(steps.layer_counts), steps.plan.max_batched_tokens
    share = ceil(running / stages)
    average = steady_batch(min(share, running), prompt_tokens, output_tokens)
    batches, chunks = min(stages, ceil(running)), -(-prompt_tokens // steps.plan.longest_chunk)
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
    # However they are spread, the steps carry all tokens: in `least_us` at best.
    if stages == 1:  # A step waits for no other's chunk, and what it has no room for is in the next one.
        some, least_us = min(1.0, prompts / together), steps.step_us(average)
    else:
        least_us = batches * max(steps.stage_times_us(average))
    round_us = some * _round_us(steps, loaded, batches) + (1 - some) * _round_us(steps, plain, batches)
    return max(round_us, least_us)


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


def _apart_s(steps: StepModel, workload: WorkloadSpec, clients: int) -> float:
    """Between the beginnings of two clients, as `app validate` has it: as requests come once all have begun,
    and in a third of the time at most."""
    prompt, output = workload.prompt_tokens, workload.output_tokens
    running = min(clients, steps.plan.most_at_once)
    return min(output * cycle_us(steps, running, prompt, output) / 1e6 / running, START_S / clients)


def steady_capacity(steps: StepModel, kv_tokens: int, workload: WorkloadSpec, slo: Slo) -> Capacity:
    """Search the running batch: tokens a second grow with it, and so does the time of each token.

    It is less than one request where the prompts that come while one runs break the promise, or fill more
    than the steps. An output of one token has no time between tokens, and so no promise of it.
    """
    prompt, output = workload.prompt_tokens, workload.output_tokens
    stages, budget = len(steps.layer_counts), steps.plan.max_batched_tokens
    bounds = {
        "KV cache": kv_tokens // (prompt + output / 2),
        # With each token of a running request comes its share of the prompt that follows it.
        "prefill": stages * budget / (1 + prompt / output),
        "max_running": steps.plan.most_at_once,
    }
    limit = min(bounds, key=bounds.__getitem__)
    promised = slo.tightest_tpot_ms if output > 1 else inf
    if bounds["KV cache"] < 1:
        return Capacity(0.0, 0, 0.0, "KV cache")
    if (alone_ms := alone_us(steps, prompt, output) / 1e3) > promised:
        return Capacity(0.0, 0, alone_ms, "TPOT")

    def token_ms(running: float) -> float:
        return cycle_us(steps, running, prompt, output) / 1e3

    unit, largest = 1.0, int(bounds[limit])
    if largest < 1 or token_ms(1) > promised:
        unit, largest = min(bounds[limit], 1) / PARTS, PARTS
    low, high = 1, largest
    while low < high:  # token time grows with the batch: the largest that keeps the promise
        middle = (low + high + 1) // 2
        low, high = (middle, high) if token_ms(middle * unit) <= promised else (low, middle - 1)
    running, tpot_ms = low * unit, token_ms(low * unit)
    return Capacity(running / output / (tpot_ms / 1e3), running, tpot_ms, "TPOT" if low < largest else limit)


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

    Clients begin one after the other. As many are sent again after them, so that none is served by an engine
    that empties. ValueError when a request can't fit into the cache.
    """
    sent = 2 * requests
    asks = uniform_asks(sent, workload.prompt_tokens, workload.output_tokens, shortest_share=1.0, seed=seed)
    if workload.concurrency is not None:
        arrivals = Arrivals(workload.concurrency, apart_s=_apart_s(steps, workload, workload.concurrency))
    else:
        arrivals = Arrivals(times_s=poisson_times_s(sent, requests_per_s, seed=seed))
    plan = steps.plan
    simulation = Simulation(
        steps, kv_tokens, plan.max_batched_tokens, plan.most_at_once, plan.prompt_step_tokens
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
