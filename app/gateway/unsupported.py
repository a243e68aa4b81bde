"""Fields of OpenAI's that vLLM does not know, and whose loss would make another answer than was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.gateway.errors import ApiError, invalid
from app.gateway.schemas import Chat, Completion, Fields, Responses

_TEXT_ONLY = "is not supported: answers are text"
_NOT_MODERATED = "is not supported: nothing is moderated here"


def check_supported(fields: Fields, value: Mapping[str, Any]) -> None:
    """`value` is what `fields` were read from. Raises ApiError 400."""
    if isinstance(fields, Chat):
        _check_absent(value, "functions", "is not supported: send tools")
        _check_absent(value, "function_call", "is not supported: send tool_choice")
        _check_absent(value, "audio", _TEXT_ONLY)
        _check_absent(value, "moderation", _NOT_MODERATED)
        if value.get("modalities") not in (None, [], ["text"]):
            raise _unsupported("modalities", value["modalities"], _TEXT_ONLY)
        # Empty it asks for a search too.
        if value.get("web_search_options") is not None:
            reason = "is not supported: nothing is searched for here"
            raise _unsupported("web_search_options", value["web_search_options"], reason)
    elif isinstance(fields, Responses):
        _check_absent(value, "conversation", "is not kept here: send its items as input")
        _check_absent(value, "moderation", _NOT_MODERATED)
        _check_tool_choice(fields, value.get("tool_choice"))
    elif isinstance(fields, Completion):
        best_of = value.get("best_of")
        if best_of is not None and best_of != (fields.n or 1):
            raise _unsupported("best_of", best_of, "is not supported: all n answers are returned")


def _check_tool_choice(fields: Responses, choice: object) -> None:
    """vLLM takes other objects for "auto", and lets any number of calls come."""
    if isinstance(choice, dict) and choice.get("type") != "function":
        reason = "is not supported: choose auto, required, none or a function"
        raise _unsupported("tool_choice.type", choice.get("type"), reason)
    if fields.tools and choice != "none" and fields.parallel_tool_calls is False:
        raise _unsupported("parallel_tool_calls", False, "is not supported: several calls may come at once")


def _check_absent(value: Mapping[str, Any], name: str, reason: str) -> None:
    """What is empty asks for nothing."""
    if value.get(name):
        raise _unsupported(name, value[name], reason)


def _unsupported(name: str, given: object, reason: str) -> ApiError:
    return invalid(name, given, reason, "unsupported_field")
