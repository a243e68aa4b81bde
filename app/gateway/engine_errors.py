"""The engine's refusals in the gateway's form: one field, its value, one reason.

vLLM 0.29 answers a malformed body with every branch of every union as a list of Python dictionaries, and
puts an integer into `code`.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from app.gateway.errors import ApiError, invalid, place, shorten, unknown_path
from app.gateway.fitting import CONTEXT_EXCEEDED
from app.gateway.redaction import without_paths
from app.gateway.schemas import SCHEMAS

# Longer texts of vLLM's are cut: they may quote the request.
SHOWN_MESSAGE_CHARS = 300
# What pydantic calls the branches of a union of plain types.
_PLAIN_TYPES = frozenset({"str", "int", "float", "bool", "bytes", "list", "dict", "none"})
# What vLLM says of a prompt that is too long: one of these in the place of a field, or one of the sentences.
_LENGTHS = frozenset({"input_tokens", "input_text"})
_TOO_LONG = re.compile("maximum context length|maximum model length|exceeds the max_model_len")


def from_engine(status: int, body: bytes, path: str) -> ApiError:
    """The engine's 4xx answer to a request of `path` as this API's."""
    try:
        error: dict[str, Any] = dict(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        if status == 404:
            # vLLM's application has only the paths that its model can answer.
            return unknown_path(path)
        reason = without_paths(shorten(body))
        return ApiError(status, "engine_refused", f"The engine refused the request: {reason}")
    message = without_paths(str(error.get("message", "")))
    problem = _first_problem(message)
    if problem is not None:
        field = _field(problem["loc"])
        if problem.get("type") == "missing":
            return ApiError(400, "missing_field", f"{field}: the field is required", field)
        return invalid(field, problem.get("input"), f"is refused: {problem['msg']}")
    param = error.get("param")
    if str(param) in _LENGTHS or _TOO_LONG.search(message):
        field = SCHEMAS[path].prompt_field
        return ApiError(400, CONTEXT_EXCEEDED, f"{field}: {message}"[:SHOWN_MESSAGE_CHARS], field)
    at_fault = str(param)[:SHOWN_MESSAGE_CHARS] if param else _first_field(message, path)
    return ApiError(status, "invalid_value", message[:SHOWN_MESSAGE_CHARS], at_fault)


def _first_field(message: str, path: str) -> str | None:
    """The field of the request that a message begins with; most of vLLM's do, and say it nowhere else."""
    word = message.partition(" ")[0].strip("`'")
    return word if word in SCHEMAS[path].model_fields else None


def _first_problem(message: str) -> dict[str, Any] | None:
    """The first entry of vLLM's `N validation errors:` list, when the message is one."""
    head, _, rest = message.partition("\n")
    if "validation error" not in head:
        return None
    try:
        problem = ast.literal_eval(rest.partition("\n")[0].strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return problem if isinstance(problem, dict) and "loc" in problem and "msg" in problem else None


def _field(location: tuple[Any, ...]) -> str:
    """The client's own path: names and indexes, without the branches of unions in between."""
    return place(part for part in location[1:] if isinstance(part, int) or _is_name(part))


def _is_name(part: str) -> bool:
    """True for a field of OpenAI's; other parts are classes, plain types, or hold brackets and dashes."""
    return part.isidentifier() and part.islower() and part not in _PLAIN_TYPES
