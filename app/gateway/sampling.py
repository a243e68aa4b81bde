"""How many tokens an answer may have, and what of the sampler's settings contradicts itself.

The engine refuses such settings too, but only after a lease.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.gateway.errors import invalid
from app.gateway.schemas import Chat, Completion, Fields, Responses
from app.limits import RequestLimits

# OpenAI's default for completions.
COMPLETION_TOKENS = 16
# To vLLM a temperature below this is none: the likeliest token is taken.
GREEDY_BELOW = 1e-5


def most_output(fields: Fields, limits: RequestLimits) -> int | None:
    """Tokens of one answer; None where neither the client, nor the API, nor the limits bound them."""
    asked: int | None = None
    if isinstance(fields, Chat):
        asked = fields.max_completion_tokens or fields.max_tokens
    elif isinstance(fields, Completion):
        asked = COMPLETION_TOKENS if fields.max_tokens is None else max(1, fields.max_tokens)
    elif isinstance(fields, Responses):
        asked = fields.max_output_tokens
    return min((bound for bound in (asked, limits.max_output_tokens) if bound is not None), default=None)


def check_sampling(fields: Fields, value: Mapping[str, Any], limits: RequestLimits) -> None:
    """`value` is what `fields` were read from. Raises ApiError 400."""
    # A beam search does not sample, and knows no least length.
    if not isinstance(fields, Chat | Completion) or value.get("use_beam_search"):
        return
    if (fields.n or 1) > 1 and fields.temperature is not None and fields.temperature < GREEDY_BELOW:
        raise invalid("n", fields.n, f"answers would be the same at temperature {fields.temperature:g}")
    most = most_output(fields, limits)
    if most is not None and (fields.min_tokens or 0) > most:
        raise invalid("min_tokens", fields.min_tokens, f"is more than the {most} that an answer may have")
