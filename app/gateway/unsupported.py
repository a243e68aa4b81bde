"""Fields of OpenAI's that vLLM does not know, and whose loss would make another answer than was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.gateway.errors import invalid
from app.gateway.schemas import Chat, Completion, Fields, Responses


def check_supported(fields: Fields, value: Mapping[str, Any]) -> None:
    """`value` is what `fields` were read from. Raises ApiError 400."""
    if isinstance(fields, Chat):
        _check_absent(value, "functions", "is not supported: send tools")
        _check_absent(value, "function_call", "is not supported: send tool_choice")
    elif isinstance(fields, Responses):
        _check_absent(value, "conversation", "is not kept here: send its items as input")
    elif isinstance(fields, Completion):
        best_of = value.get("best_of")
        if best_of is not None and best_of != (fields.n or 1):
            reason = "is not supported: all n answers are returned"
            raise invalid("best_of", best_of, reason, "unsupported_field")


def _check_absent(value: Mapping[str, Any], name: str, reason: str) -> None:
    """What is empty asks for nothing."""
    if value.get(name):
        raise invalid(name, value[name], reason, "unsupported_field")
