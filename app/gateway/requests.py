"""What can be known about a request before it takes a lease.

The engine validates every field of OpenAI's API; here are the checks that save a place in the queue.
The body itself goes to the engine as it came, with the tenant's salt behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.flow.ticket import Ticket
from app.gateway.bounds import check_bounds, check_depth, check_forbidden, too_large
from app.gateway.errors import ApiError, invalid, shorten
from app.gateway.prompt import Part, part_of, prompt_of
from app.gateway.schemas import (
    SALTED_PATHS,
    SCHEMAS,
    Chat,
    Completion,
    Detokenize,
    Embedding,
    Fields,
    Responses,
    Tokenize,
)
from app.gateway.tiers import Tiers
from app.gateway.tokens import COUNTED_BYTES_PER_TOKEN, TokenCounter
from app.limits import DEFAULT_LIMITS, RequestLimits

# OpenAI's own code for it.
CONTEXT_EXCEEDED = "context_length_exceeded"
# vLLM's own default; lower is more urgent.
DEFAULT_PRIORITY = 0
# OpenAI's default for completions.
COMPLETION_TOKENS = 16
# Where the vocabulary is not known: what an engine holds a token id in.
MOST_TOKEN_IDS = 2**31
# What a chat template puts around a message.
TOKENS_A_MESSAGE = 4


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is worth a lease; its ticket has yet to get an id and a time of arrival.

    `body` is what the engine gets.
    """

    path: str
    body: bytes
    stream: bool
    ticket: Ticket
    # As the client put it.
    service_tier: str | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What the served model accepts, and how its prompts are counted."""

    model: str
    max_model_len: int
    counter: TokenCounter | None
    tiers: Tiers
    tokens_per_block: int
    limits: RequestLimits = DEFAULT_LIMITS
    # The engine knows how the model writes a call of a tool.
    tools: bool = False


@dataclass(frozen=True, slots=True)
class _Output:
    """How many tokens an answer may have, and the field that says so."""

    field: str
    tokens: int


async def read(path: str, body: bytes, window: Window, tenant: str) -> Request:
    """`parse`, off the event loop where it counts the tokens of a long prompt: that takes milliseconds."""
    if len(body) > window.max_model_len:
        return await asyncio.to_thread(parse, path, body, window, tenant)
    return parse(path, body, window, tenant)


def parse(path: str, body: bytes, window: Window, tenant: str) -> Request:
    """Raises ApiError (400, 404, 413) naming the field and the value."""
    schema = SCHEMAS.get(path)
    if schema is None:
        raise ApiError(404, "unknown_path", f"path: {shorten(path)} is not served here", "path")
    value = _decoded(body, window.limits)
    check_forbidden(value, window.limits)
    fields = _validated(schema, value)
    check_bounds(fields, value, window.limits)
    _check_tools(fields, value, window)
    if fields.model != window.model:
        reason = f"is not served; {window.model!r} is"
        raise ApiError(404, "model_not_found", f"model: {shorten(fields.model)} {reason}", "model")
    class_name = _class_asked(fields, window.tiers)
    parts = _parts(fields, window)
    _check_length(fields, parts, window)
    ticket = _ticket(fields, parts, body, window, tenant, class_name)
    if path in SALTED_PATHS:
        body = _with_salt(body, tenant, fields.cache_salt)
    return Request(path, body, bool(fields.stream), ticket, fields.service_tier)


def _check_tools(fields: Fields, value: dict[str, Any], window: Window) -> None:
    """vLLM would refuse them too, after a lease, and with the advice to start it otherwise."""
    asks = isinstance(fields, Chat) and fields.tools and value.get("tool_choice") != "none"
    if asks and not window.tools:
        reason = "tools: are not served here: engine.tool_call_parser is not configured"
        raise ApiError(400, "unsupported_field", reason, "tools")


def _with_salt(body: bytes, tenant: str, own_salt: str | None) -> bytes:
    """Engines share the cache of a prefix among requests of one salt only.

    Appended, because the last of duplicate keys counts: what the client has put there does not.
    """
    salt = hashlib.blake2b(json.dumps([tenant, own_salt]).encode(), digest_size=16).hexdigest()
    return body.rstrip()[:-1] + b',"cache_salt":"' + salt.encode() + b'"}'


def _class_asked(fields: Fields, tiers: Tiers) -> str:
    """Empty where nothing is asked for."""
    tier = fields.service_tier
    if tier is None:
        return ""
    # The engine knows OpenAI's names only, and looks at them in responses.
    known = tiers.openai_names if isinstance(fields, Responses) else tiers.names
    class_name = tiers.class_of(tier) if tier in known else None
    if class_name is None:
        raise invalid("service_tier", tier, f"is none of {', '.join(known)}")
    return class_name


def _ticket(
    fields: Fields, parts: list[Part], body: bytes, window: Window, tenant: str, class_name: str
) -> Ticket:
    overhead = TOKENS_A_MESSAGE * len(fields.messages) if isinstance(fields, Chat) else 0
    prompt = prompt_of(parts, overhead, salt=tenant, block=window.tokens_per_block)
    session, answers = fields.prompt_cache_key, _answers(fields)
    return Ticket(
        ticket_id="",
        priority=fields.priority or DEFAULT_PRIORITY,
        arrived_s=0.0,
        tenant=tenant,
        class_name=class_name,
        prompt_tokens=prompt.tokens,
        max_output_tokens=_output_bound(fields, answers),
        answers=answers,
        prefix_blocks=prompt.blocks,
        # A key of one tenant's says nothing of another's.
        session_id=f"{tenant}:{session}" if session else "",
        ttft_budget_s=fields.ttft_budget_s,
        deadline_s=fields.deadline_s,
        size_bytes=len(body),
        fingerprint=hashlib.blake2b(body, digest_size=16).hexdigest(),
        # The engine sees the first token of every request but those with several whole answers.
        revocable=bool(fields.stream) or (fields.n or 1) == 1,
        operation=fields.operation,
    )


def _answers(fields: Fields) -> int:
    """How many the engine gives at the same time; an input to embed counts as one."""
    if isinstance(fields, Completion):
        return (fields.n or 1) * len(_prompts("prompt", fields.prompt))
    if isinstance(fields, Embedding):
        return len(_prompts("input", fields.input))
    # Elsewhere `n` means nothing, and nobody has looked at it.
    return (fields.n or 1) if isinstance(fields, Chat) else 1


def _output_bound(fields: Fields, answers: int) -> int:
    """Tokens of all answers together; 0 when neither the client nor the API bounds them."""
    if isinstance(fields, Chat):
        return answers * (fields.max_completion_tokens or fields.max_tokens or 0)
    if isinstance(fields, Completion):
        bound = COMPLETION_TOKENS if fields.max_tokens is None else fields.max_tokens
        return answers * max(1, bound)
    if isinstance(fields, Responses):
        return fields.max_output_tokens or 0
    # Embeddings and token counts: one step.
    return 1


def _parts(fields: Fields, window: Window) -> list[Part]:
    """All texts of a prompt, counted, in order."""
    field, values = _prompt(fields)
    for value in values:
        _check_encodable(field, value, window.counter)
    return [part_of(value, window.counter, window.max_model_len) for value in values]


def _prompt(fields: Fields) -> tuple[str, list[str | list[int]]]:
    """The field that holds the prompt, and the texts or token ids in it."""
    if isinstance(fields, Chat):
        contents = [(message.model_extra or {}).get("content") for message in fields.messages]
        return "messages", [text for content in contents for text in _texts(content)]
    if isinstance(fields, Completion):
        return "prompt", _prompts("prompt", fields.prompt)
    if isinstance(fields, Responses):
        return "input", list(_texts(fields.input))
    if isinstance(fields, Embedding):
        return "input", _prompts("input", fields.input)
    return "", []


def _texts(content: object) -> Iterator[str]:
    """Of a message's content: a text, or a list of parts with one each."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict):
                yield from _texts(part.get("text") or part.get("content"))


def _check_encodable(field: str, prompt: str | list[int], counter: TokenCounter | None) -> None:
    if isinstance(prompt, list):
        _check_tokens(field, prompt, counter)
        return
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        character = prompt[error.start : error.end]
        raise invalid(field, character, "is half of a surrogate pair, not a character") from None


def _check_tokens(field: str, ids: list[int], counter: TokenCounter | None) -> None:
    if min(ids) < 0:
        raise invalid(field, min(ids), "is no token id: the least is 0")
    vocabulary = MOST_TOKEN_IDS if counter is None else counter.vocabulary
    if max(ids) >= vocabulary:
        raise invalid(field, max(ids), f"is no token id: the greatest is {vocabulary - 1}")


def _decoded(body: bytes, limits: RequestLimits) -> dict[str, Any]:
    if len(body) > limits.max_body_bytes:
        raise body_too_large(limits)
    try:
        # As text: of bytes Python would guess the encoding, and what is appended is UTF-8.
        value = json.loads(body.decode(), parse_constant=_no_constant)
    except RecursionError:
        raise ApiError(400, "invalid_json", "body: the JSON is nested too deeply", "body") from None
    except ValueError as error:
        raise ApiError(400, "invalid_json", f"body: not valid JSON: {error}", "body") from None
    if not isinstance(value, dict):
        raise ApiError(400, "invalid_type", f"body: {shorten(value)} is not a JSON object", "body")
    check_depth(body, value, limits)
    return value


def body_too_large(limits: RequestLimits) -> ApiError:
    return ApiError(413, "body_too_large", f"body: more than {limits.max_body_bytes} bytes", "body")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _validated(schema: type[Fields], value: dict[str, Any]) -> Fields:
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


def _check_length(fields: Fields, parts: list[Part], window: Window) -> None:
    """Refuses what can't fit, as far as that is known without the chat template."""
    if isinstance(fields, Chat):
        named = "max_tokens" if fields.max_completion_tokens is None else "max_completion_tokens"
        output = _Output(named, fields.max_completion_tokens or fields.max_tokens or 1)
        _check_fits("messages", sum(part.at_least for part in parts), output, window)
    elif isinstance(fields, Completion):
        for part in parts:
            _check_fits("prompt", part.at_least, _Output("max_tokens", fields.max_tokens or 1), window)
    elif isinstance(fields, Responses):
        output = _Output("max_output_tokens", fields.max_output_tokens or 1)
        _check_fits("input", sum(part.at_least for part in parts), output, window)
    elif isinstance(fields, Detokenize):
        _check_fits("tokens", len(fields.tokens), _Output("tokens", 0), window)
    elif isinstance(fields, Tokenize):
        limit_chars = window.max_model_len * COUNTED_BYTES_PER_TOKEN
        if fields.prompt is not None and len(fields.prompt) > limit_chars:
            raise too_large("prompt", f"{len(fields.prompt)} characters", limit_chars)
    else:
        for part in parts:
            _check_fits("input", part.at_least, _Output("input", 0), window)


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


def _check_fits(field: str, prompt_tokens: int, output: _Output, window: Window) -> None:
    if prompt_tokens + output.tokens <= window.max_model_len:
        return
    limit = f"the model's window of {window.max_model_len} tokens"
    if output.tokens > window.max_model_len:
        raise invalid(output.field, output.tokens, f"exceeds {limit}", CONTEXT_EXCEEDED)
    reason = f"{field}: {prompt_tokens} tokens or more, and {output.tokens} of output, exceed {limit}"
    raise ApiError(400, CONTEXT_EXCEEDED, reason, field)
