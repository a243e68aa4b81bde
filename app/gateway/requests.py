"""What can be known about a request before it takes a lease.

The engine validates every field of OpenAI's API; here are the checks that save a place in the queue.
The body itself goes to the engine as it came, with the tenant's salt behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.flow.ticket import Ticket
from app.gateway.bounds import check_bounds, check_depth, check_forbidden, check_logprobs
from app.gateway.errors import ApiError, invalid, place, shorten, unknown_path
from app.gateway.fitting import fit
from app.gateway.grammars import check_grammars
from app.gateway.prompt import Prompt, asked, prompt_of
from app.gateway.sampling import check_sampling, most_output
from app.gateway.schemas import SALTED_PATHS, SCHEMAS, Chat, Completion, Fields, Responses
from app.gateway.tiers import Tiers
from app.gateway.tokens import TokenCounter
from app.gateway.unsupported import check_supported
from app.limits import DEFAULT_LIMITS, RequestLimits

# vLLM's own default; lower is more urgent.
DEFAULT_PRIORITY = 0
# A body of so many bytes is read and its tokens are counted in about five milliseconds.
READ_AT_ONCE_BYTES = 8 * 1024


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
    # It compiles them also where the model is free to call none (app/gateway/grammars.py).
    tools_always_compiled: bool = False


async def read(path: str, body: bytes, window: Window, tenant: str) -> Request:
    """`parse`, off the event loop where that would stand still for long."""
    if len(body) > READ_AT_ONCE_BYTES:
        return await asyncio.to_thread(parse, path, body, window, tenant)
    return parse(path, body, window, tenant)


def parse(path: str, body: bytes, window: Window, tenant: str) -> Request:
    """Raises ApiError (400, 404, 413) naming the field and the value."""
    schema = SCHEMAS.get(path)
    if schema is None:
        raise unknown_path(path)
    value = _decoded(body, window.limits)
    check_forbidden(value, window.limits)
    fields = _validated(schema, value)
    reads = asked(fields, value)
    check_supported(fields, value)
    check_bounds(fields, value, reads.answers, window.limits)
    check_grammars(value, window.limits, window.tools_always_compiled)
    check_sampling(fields, value, window.limits)
    _check_tools(fields, value, window)
    if fields.model != window.model:
        reason = f"is not served; {window.model!r} is"
        raise ApiError(404, "model_not_found", f"model: {shorten(fields.model)} {reason}", "model")
    class_name = _class_asked(fields, window.tiers)
    fitted = fit(fields, value, reads, window.counter, window.max_model_len)
    salt = _salt(tenant, fields.cache_salt)
    prompt = prompt_of(fitted.prompts, reads.overhead, fitted.most, salt, window.tokens_per_block)
    check_logprobs(fields, reads.answers, prompt.tokens, window.max_model_len, window.limits)
    most_tokens = _output_bound(fields, reads.answers, window.limits)
    ticket = _ticket(fields, reads.answers, most_tokens, prompt, body, tenant, class_name)
    if None in value.values():
        body = _without_nulls(value)
    if path in SALTED_PATHS:
        body = _with(body, cache_salt=salt)
    if isinstance(fields, Responses) and fields.service_tier is not None:
        # vLLM only repeats it, and refuses names that it does not know.
        body = _with(body, service_tier="auto")
    # Where vLLM knows no streams it ignores the field.
    stream = isinstance(fields, Chat | Completion | Responses) and bool(fields.stream)
    return Request(path, body, stream, ticket, fields.service_tier)


def _without_nulls(value: dict[str, Any]) -> bytes:
    """To OpenAI's clients null is a field's default; vLLM refuses it in some fields, and cuts a prompt whose
    `truncation` is null."""
    return json.dumps({name: given for name, given in value.items() if given is not None}).encode()


def _check_tools(fields: Fields, value: dict[str, Any], window: Window) -> None:
    """vLLM would refuse them too, after a lease, and with the advice to start it otherwise."""
    asks = isinstance(fields, Chat | Responses) and fields.tools and value.get("tool_choice") != "none"
    if asks and not window.tools:
        reason = "tools: are not served here: engine.tool_call_parser is not configured"
        raise ApiError(400, "unsupported_field", reason, "tools")


def _salt(tenant: str, own_salt: str | None) -> str:
    """Engines share the cache of a prefix among requests of one salt only."""
    return hashlib.blake2b(json.dumps([tenant, own_salt]).encode(), digest_size=16).hexdigest()


def _with(body: bytes, **fields: str) -> bytes:
    """Appended, because the last of duplicate keys counts: what the client has put there does not."""
    return body.rstrip()[:-1] + b"," + json.dumps(fields).encode()[1:]


def _class_asked(fields: Fields, tiers: Tiers) -> str:
    """Empty where nothing is asked for."""
    tier = fields.service_tier
    if tier is None:
        return ""
    class_name = tiers.class_of(tier)
    if class_name is None:
        raise invalid("service_tier", tier, f"is not one of {', '.join(tiers.names)}")
    return class_name


def _ticket(
    fields: Fields,
    answers: int,
    most_tokens: int,
    prompt: Prompt,
    body: bytes,
    tenant: str,
    class_name: str,
) -> Ticket:
    session = fields.prompt_cache_key
    return Ticket(
        ticket_id="",
        priority=fields.priority or DEFAULT_PRIORITY,
        arrived_s=0.0,
        tenant=tenant,
        class_name=class_name,
        prompt_tokens=prompt.tokens,
        max_output_tokens=most_tokens,
        answers=answers,
        prefix_blocks=prompt.blocks,
        # A key of one tenant's says nothing of another's.
        session_id=f"{tenant}:{session}" if session else "",
        ttft_budget_s=fields.ttft_budget_s,
        deadline_s=fields.deadline_s,
        size_bytes=len(body),
        fingerprint=hashlib.blake2b(body, digest_size=16).hexdigest(),
        revocable=True,
        operation=fields.operation,
    )


def _output_bound(fields: Fields, answers: int, limits: RequestLimits) -> int:
    """Tokens of all answers together; 0 where nothing bounds them."""
    if not isinstance(fields, Chat | Completion | Responses):
        # Embeddings and token counts: one step.
        return 1
    return answers * (most_output(fields, limits) or 0)


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
    field = place(first["loc"])
    if first["type"] == "missing":
        return ApiError(400, "missing_field", f"{field}: the field is required", field)
    return invalid(field, first["input"], f"is refused: {first['msg']}")
