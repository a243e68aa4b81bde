"""What is sent: prompts of an exact number of tokens, none with another's beginning. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from app.load.streams import Call, completion

PATH = "/v1/completions"
# Ordinary tokens of any vocabulary of a thousand and more: the special ones are at one of its ends.
TOKENS = range(100, 1000)
# Of a window: the rest is for the answer, which goes on until every other request has begun.
FILLING_PROMPT_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class Target:
    """Which application, as its clients name it. `prefix`: of its route, without a slash at the end."""

    url: str
    prefix: str
    model: str
    key: str


def calls(
    target: Target, seed: str, prompt_tokens: int, output_tokens: int, class_name: str = ""
) -> Iterator[Call]:
    """As many as are asked for, each prompt another; the same seed gives the same ones."""
    source = random.Random(seed)
    number = 0
    while True:
        prompt = source.choices(TOKENS, k=prompt_tokens)
        body = completion(target.model, prompt, output_tokens, class_name)
        yield Call(f"{seed}-{number}", target.prefix + PATH, body, class_name=class_name, key=target.key)
        number += 1


def filling_lengths(max_model_len: int) -> tuple[int, int]:
    """Prompt and output that together take a whole window."""
    prompt_tokens = int(FILLING_PROMPT_SHARE * max_model_len)
    return prompt_tokens, max_model_len - prompt_tokens
