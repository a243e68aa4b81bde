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


def asked_output(fields: Chat | Completion | Responses) -> tuple[str, int | None]:
    """The field that bounds one answer, and its value."""
    if isinstance(fields, Responses):
        return "max_output_tokens", fields.max_output_tokens
    if isinstance(fields, Chat) and fields.max_completion_tokens is not None:
        return "max_completion_tokens", fields.max_completion_tokens
    return "max_tokens", fields.max_tokens


def most_output(fields: Chat | Completion | Responses, limits: RequestLimits) -> int | None:
    """Tokens of one answer; None where neither the client, nor the API, nor the limits bound them."""
    _, asked = asked_output(fields)
    if isinstance(fields, Completion):
        asked = COMPLETION_TOKENS if asked is None else max(1, asked)
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
