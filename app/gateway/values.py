"""JSON values as clients send them: what is inside, level by level, and how they are written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from app.gateway.errors import ApiError


def levels(value: object) -> Iterator[list[Any]]:
    """The objects and lists in it: itself, those in itself, those in these, and so on."""
    level = _containers([value])
    while level:
        yield level
        level = [inner for outer in level for inner in _inside(outer)]


def _inside(outer: Any) -> list[Any]:
    return _containers(outer.values() if isinstance(outer, dict) else outer)


def _containers(values: Any) -> list[Any]:
    return [one for one in values if isinstance(one, dict | list)]


def written(field: str, value: object) -> bytes:
    """As JSON without blanks, in a quarter of the time that `json` takes. Raises ApiError 400 for half of a
    surrogate pair, which only an escape can write."""
    try:
        return to_json(value)
    except PydanticSerializationError:
        reason = f"{field}: holds half of a surrogate pair, which is not a character"
        raise ApiError(400, "invalid_value", reason, field) from None
