"""What can be known about a request before it takes a lease.

The engine validates every field of OpenAI's API; here are the checks that save a place in the queue.
The body itself goes to the engine as it came.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from app.gateway.errors import ApiError, invalid, shorten
from app.gateway.tokens import TokenCounter

# OpenAI's own code for it.
CONTEXT_EXCEEDED = "context_length_exceeded"
# vLLM's own default; lower is more urgent.
DEFAULT_PRIORITY = 0


class _Common(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: StrictStr
    stream: StrictBool | None = None
    # vLLM's engine takes no more than 64 bits.
    priority: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[StrictInt, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(strict=True, ge=0)] | None = None
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None


class _Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: StrictStr


class _Chat(_Common):
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None


class _Completion(_Common):
    prompt: Any
    max_tokens: Annotated[StrictInt, Field(ge=0)] | None = None


class _Responses(_Common):
    input: Any
    max_output_tokens: Annotated[StrictInt, Field(ge=1)] | None = None


class _Embedding(_Common):
    input: Any


class _Free(_Common):
    """Tokenize and detokenize: two shapes of each, told apart by the engine."""


# What is checked for each of app.contract.LEASED_PATHS.
SCHEMAS: dict[str, type[_Common]] = {
    "/v1/chat/completions": _Chat,
    "/v1/completions": _Completion,
    "/v1/responses": _Responses,
    "/v1/embeddings": _Embedding,
    "/tokenize": _Free,
    "/detokenize": _Free,
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is worth a lease."""

    path: str
    body: bytes
    stream: bool
    priority: int


@dataclass(frozen=True, slots=True)
class Window:
    """What the served model accepts."""

    model: str
    max_model_len: int
    counter: TokenCounter | None


@dataclass(frozen=True, slots=True)
class _Output:
    """How many tokens an answer may have, and the field that says so."""

    field: str
    tokens: int


def parse(path: str, body: bytes, window: Window) -> Request:
    """Raises ApiError (400, 404) naming the field and the value."""
    schema = SCHEMAS.get(path)
    if schema is None:
        raise ApiError(404, "unknown_path", f"path: {shorten(path)} is not served here", "path")
    fields = _validated(schema, _decoded(body))
    if fields.model != window.model:
        reason = f"is not served; {window.model!r} is"
        raise ApiError(404, "model_not_found", f"model: {shorten(fields.model)} {reason}", "model")
    _check_length(fields, window)
    return Request(path, body, bool(fields.stream), fields.priority or DEFAULT_PRIORITY)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise ApiError(400, "invalid_json", "body: the JSON is nested too deeply", "body") from None
    except ValueError as error:
        raise ApiError(400, "invalid_json", f"body: not valid JSON: {error}", "body") from None
    if not isinstance(value, dict):
        raise ApiError(400, "invalid_type", f"body: {shorten(value)} is not a JSON object", "body")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _validated(schema: type[_Common], value: dict[str, Any]) -> _Common:
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise _as_api_error(error) from None


def _as_api_error(error: ValidationError) -> ApiError:
    """The first problem that the model found."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "body"
    if first["type"] == "missing":
        return ApiError(400, "missing_field", f"{field}: the field is required", field)
    return invalid(field, first["input"], f"is refused: {first['msg']}")


def _check_length(fields: _Common, window: Window) -> None:
    """Refuses what is empty and what can't fit, as far as that is known without the chat template."""
    if isinstance(fields, _Chat):
        contents = [(message.model_extra or {}).get("content") for message in fields.messages]
        texts = [content for content in contents if isinstance(content, str)]
        named = "max_tokens" if fields.max_completion_tokens is None else "max_completion_tokens"
        output = _Output(named, fields.max_completion_tokens or fields.max_tokens or 1)
        tokens = sum(_least_tokens("messages", text, window) for text in texts)
        _check_fits("messages", tokens, output, window)
    elif isinstance(fields, _Completion):
        for prompt in _prompts("prompt", fields.prompt):
            tokens = _least_tokens("prompt", prompt, window)
            _check_fits("prompt", tokens, _Output("max_tokens", fields.max_tokens or 1), window)
    elif isinstance(fields, _Responses) and isinstance(fields.input, str):
        output = _Output("max_output_tokens", fields.max_output_tokens or 1)
        _check_fits("input", _least_tokens("input", fields.input, window), output, window)
    elif isinstance(fields, _Embedding):
        for prompt in _prompts("input", fields.input):
            _check_fits("input", _least_tokens("input", prompt, window), _Output("input", 0), window)


def _prompts(field: str, value: object) -> list[str | list[int]]:
    """A text, token ids, or a list of either, as a list of prompts."""
    prompts: list[Any] = value if isinstance(value, list) and not _is_tokens(value) else [value]
    if not prompts:
        raise invalid(field, value, "is empty")
    for prompt in prompts:
        if not isinstance(prompt, str) and not _is_tokens(prompt):
            raise invalid(field, prompt, "is neither a text nor a list of token ids", "invalid_type")
        if not prompt:
            raise invalid(field, prompt, "is empty")
    return prompts


def _is_tokens(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _least_tokens(field: str, prompt: str | list[int], window: Window) -> int:
    """A lower bound; 0 where a text is too short to matter (a token is at least one byte)."""
    if isinstance(prompt, list):
        return len(prompt)
    try:
        size_bytes = len(prompt.encode())
    except UnicodeEncodeError as error:
        character = prompt[error.start : error.end]
        raise invalid(field, character, "is half of a surrogate pair, not a character") from None
    if window.counter is None or size_bytes <= window.max_model_len // 2:
        return 0
    return window.counter.at_least(prompt, window.max_model_len)


def _check_fits(field: str, prompt_tokens: int, output: _Output, window: Window) -> None:
    if prompt_tokens + output.tokens <= window.max_model_len:
        return
    limit = f"the model's window of {window.max_model_len} tokens"
    if output.tokens > window.max_model_len:
        raise invalid(output.field, output.tokens, f"exceeds {limit}", CONTEXT_EXCEEDED)
    reason = f"{field}: {prompt_tokens} tokens or more, and {output.tokens} of output, exceed {limit}"
    raise ApiError(400, CONTEXT_EXCEEDED, reason, field)
