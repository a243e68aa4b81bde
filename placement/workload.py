"""What is asked of an engine: prompt and output lengths, and when requests are sent."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. Tokens; a lower priority number goes first, as in vLLM."""

    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    cached_tokens: int = 0  # of the prompt, already in the KV cache (prefix caching)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When requests are sent: a closed loop of `concurrency` clients, or `times_s` of an open one.

    Clients begin `apart_s` after one another: all at once are a burst, and with equal lengths remain one.
    """

    concurrency: int | None = None
    times_s: tuple[float, ...] = ()
    apart_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of sending, and how they are sent."""

    asks: tuple[Ask, ...]
    arrivals: Arrivals


_TEXT = re.compile(r"(?P<prompt>\d+)/(?P<output>\d+)(?:@(?P<rate>\d+(?:\.\d+)?)(?P<closed>c)?)?")
# Of a closed loop: each of them is simulated several times, in every plan.
MOST_CLIENTS = 10_000


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """The command line's form: mean lengths, and requests a second or a concurrency."""

    prompt_tokens: int
    output_tokens: int
    requests_per_s: float | None
    concurrency: int | None = None


def parse_workload(text: str) -> WorkloadSpec:
    """ "1024/256@8" is prompt/output tokens at 8 requests/s; "1024/256@64c" is a closed loop of 64."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"workload: {text!r} is not PROMPT/OUTPUT@REQUESTS_PER_S or PROMPT/OUTPUT@CLIENTSc")
    prompt, output = int(match["prompt"]), int(match["output"])
    if prompt < 1 or output < 1:
        raise ValueError(f"workload: {text!r} has an empty prompt or output")
    rate = match["rate"]
    if rate is None:
        return WorkloadSpec(prompt, output, None, None)
    if match["closed"]:
        if "." in rate or int(rate) < 1:
            raise ValueError(f"workload: {text!r}: clients are a positive integer")
        if int(rate) > MOST_CLIENTS:
            raise ValueError(
                f"workload: {text!r}: at most {MOST_CLIENTS} clients are simulated; state a rate"
            )
        return WorkloadSpec(prompt, output, None, int(rate))
    if float(rate) <= 0:
        raise ValueError(f"workload: {text!r}: the rate is not positive")
    return WorkloadSpec(prompt, output, float(rate), None)


def uniform_asks(
    count: int, prompt_tokens: int, output_tokens: int, *, shortest_share: float, seed: int
) -> tuple[Ask, ...]:
    """Lengths uniform between `shortest_share` of the stated length and the stated length; 1.0 is exact."""
    source = random.Random(seed)

    def length(longest: int) -> int:
        return source.randint(max(1, int(longest * shortest_share)), longest)

    return tuple(Ask(length(prompt_tokens), length(output_tokens)) for _ in range(count))


def poisson_times_s(count: int, requests_per_s: float, *, seed: int) -> tuple[float, ...]:
    """Arrival times of a Poisson process, seconds from 0."""
    source, now, times = random.Random(seed), 0.0, []
    for _ in range(count):
        now += source.expovariate(requests_per_s)
        times.append(now)
    return tuple(times)
