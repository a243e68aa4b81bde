"""What is sent: seeded Poisson arrivals of unique prompts, spread over classes and tenants."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from app.load.streams import PATHS, Call
from placement.simulation.workload import Mix, Request, spread

# Each is one token of SmolLM2's vocabulary when a space precedes it.
WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school"),
    *("state", "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week"),
    *(
        "company",
        "system",
        "program",
        "question",
        "work",
        "number",
        "night",
        "point",
        "home",
        "water",
        "room",
    ),
    *("mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job"),
    *("word", "business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power"),
)
NO_PRIORITIES: Mapping[str, int] = MappingProxyType({})
# The beginning of a chat and its role markers.
TEMPLATE_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of prompts and outputs: log-normal about their medians, cut at their maxima."""

    prompt_median: int = 120
    prompt_max: int = 640
    output_median: int = 48
    output_max: int = 160
    # Of the logarithm. Chat traces have 1.0 and 0.85; less, so that short runs differ less.
    sigma: float = 0.7

    @classmethod
    def about(cls, prompt_median: int, output_median: int) -> Lengths:
        """Of these medians. The maxima go with them: at those of others they would cut another part."""
        prompt_max = prompt_median * cls().prompt_max // cls().prompt_median
        output_max = output_median * cls().output_max // cls().output_median
        return cls(prompt_median, prompt_max, output_median, output_max)

    def check(self, max_model_len: int) -> None:
        """ValueError where the longest request does not fit."""
        longest = self.prompt_max + self.output_max + TEMPLATE_TOKENS
        if longest > max_model_len:
            raise ValueError(f"lengths: {longest} tokens do not fit max_model_len ({max_model_len})")

    def draw(self, source: random.Random) -> tuple[int, int]:
        prompt = round(self.prompt_median * source.lognormvariate(0, self.sigma))
        output = round(self.output_median * source.lognormvariate(0, self.sigma))
        return min(max(prompt, 1), self.prompt_max), min(max(output, 2), self.output_max)


def poisson(duration_s: float, rate_per_s: float, seed: str, lengths: Lengths, mix: Mix) -> list[Request]:
    """Arrivals within the duration. The same seed gives the same requests, and another rate other ones."""
    source = random.Random(f"poisson {seed} {rate_per_s}")
    requests: list[Request] = []
    now_s = source.expovariate(rate_per_s)
    while now_s < duration_s:
        requests.append(Request(f"{seed}-{len(requests)}", now_s, *lengths.draw(source)))
        now_s += source.expovariate(rate_per_s)
    return spread(requests, mix, source.getrandbits(32))


def at_once(count: int, seed: str, lengths: Lengths, mix: Mix) -> list[Request]:
    """For a closed loop."""
    source = random.Random(f"at once {seed}")
    requests = [Request(f"{seed}-{number}", 0.0, *lengths.draw(source)) for number in range(count)]
    return spread(requests, mix, source.getrandbits(32))


def prompt(request: Request) -> str:
    """About as many tokens as asked for; no two requests begin alike, so no prefix is found in a cache."""
    source = random.Random(f"prompt {request.request_id}")
    return " ".join(source.choices(WORDS, k=request.prompt_tokens))


def calls(
    requests: Iterable[Request], model: str, endpoint: str, priorities: Mapping[str, int] = NO_PRIORITIES
) -> list[Call]:
    """`endpoint`: a key of PATHS; `priorities`: vLLM's, by class."""
    path, body = PATHS[endpoint]
    return [
        Call(
            one.request_id,
            path,
            body(model, prompt(one), one.output_tokens, one.class_name, priorities.get(one.class_name)),
            one.arrived_s,
            one.tenant,
            one.class_name,
            key(one.tenant),
        )
        for one in requests
    ]


def key(tenant: str) -> str:
    """The tenant's key: no secret, the server lives as long as the measurement."""
    return f"key-of-{tenant}"


def api_keys(tenants: Sequence[str]) -> dict[str, list[str]]:
    """As a server is told them: SHA-256, in hexadecimal."""
    return {tenant: [hashlib.sha256(key(tenant).encode()).hexdigest()] for tenant in tenants}
