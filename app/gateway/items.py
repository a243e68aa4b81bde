"""Which items of a response's input are read: on others vLLM 0.29 fails, where it should refuse them."""

from __future__ import annotations

from typing import Any

from app.gateway.errors import invalid

# Items that are messages without having a role.
TYPES_WITHOUT_ROLE = ("function_call", "function_call_output", "reasoning")
_ACCEPTED = f"is not read here: items are messages with a role, {', '.join(TYPES_WITHOUT_ROLE)}"


def check_items(items: str | list[Any]) -> None:
    """Raises ApiError 400 for the first item that is none of them."""
    for number, item in enumerate(items if isinstance(items, list) else ()):
        if not isinstance(item, dict):
            raise invalid(f"input.{number}", item, "is no object", "invalid_type")
        type_ = item.get("type")
        if type_ == "item_reference":
            reason = "is not read here: answers are not stored, so there is nothing to refer to"
            raise invalid(f"input.{number}.type", type_, reason)
        if type_ not in TYPES_WITHOUT_ROLE and (type_ not in (None, "message") or "role" not in item):
            raise invalid(f"input.{number}.type", type_, _ACCEPTED)
        if item.get("role") == "assistant":
            _check_answer(f"input.{number}.content", item.get("content"))


def _check_answer(name: str, content: object) -> None:
    """Of what the model has said, the text of the first part is read."""
    if not isinstance(content, list):
        return
    if not content or not isinstance(content[0], dict) or content[0].get("type") == "refusal":
        raise invalid(name, content, "does not begin with a part of text")
