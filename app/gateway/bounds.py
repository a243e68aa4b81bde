"""One place where a request is held against `limits`: sizes, counts, forbidden fields.

Types are checked already (app/gateway/schemas.py); every refusal names the field, its size and the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.gateway.errors import MAX_SHOWN_KEY, ApiError, exceeds, invalid
from app.gateway.items import check_items
from app.gateway.media import check_media
from app.gateway.sampling import most_output
from app.gateway.schemas import Chat, Completion, Embedding, Fields, Responses
from app.gateway.values import levels
from app.limits import RequestLimits

# Lists and objects, by the limit of their items.
COUNTS = {
    "messages": "max_messages",
    "tools": "max_tools",
    "logit_bias": "max_logit_bias",
    "stop_token_ids": "max_token_list",
    "allowed_token_ids": "max_token_list",
    "bad_words": "max_token_list",
    "chat_template_kwargs": "max_template_kwargs",
    "metadata": "max_metadata",
}
# Numbers, by their limit. `logprobs` is a switch in chats.
NUMBERS = {
    "top_logprobs": "max_logprobs",
    "prompt_logprobs": "max_logprobs",
    "logprobs": "max_logprobs",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "max_output_tokens": "max_output_tokens",
}
LABELS = ("user", "cache_salt")
# A template that comes as an argument of the template.
_TEMPLATE_NAMES = frozenset({"chat_template", "tokenize", "tools", "documents", "messages"})


def check_depth(body: bytes, value: object, limits: RequestLimits) -> None:
    """Raises ApiError 400 for JSON that nests too deeply."""
    # Most bodies have fewer brackets than that, whatever they nest.
    if body.count(b"[") + body.count(b"{") <= limits.max_json_depth:
        return
    for depth, _ in enumerate(levels(value)):
        if depth >= limits.max_json_depth:
            reason = f"body: the JSON nests deeper than {limits.max_json_depth} levels"
            raise ApiError(400, "invalid_json", reason, "body")


def check_forbidden(value: Mapping[str, Any], limits: RequestLimits) -> None:
    """Raises ApiError 400 for a field that clients may not send."""
    for name, reason in limits.forbidden():
        # False asks for nothing.
        if value.get(name) not in (None, False):
            raise ApiError(400, "forbidden_field", f"{name}: is not allowed here: it {reason}", name)


def check_bounds(fields: Fields, value: Mapping[str, Any], answers: int, limits: RequestLimits) -> None:
    """`value` is what `fields` were read from, `answers` what they ask for at a time. Raises ApiError 400."""
    for name, limit in COUNTS.items():
        _check_count(name, getattr(fields, name, None), getattr(limits, limit))
    for name, limit in NUMBERS.items():
        _check_number(name, getattr(fields, name, None), getattr(limits, limit))
    for name in LABELS:
        _check_chars(name, getattr(fields, name), limits.max_label_chars)
    _check_metadata(getattr(fields, "metadata", None), limits)
    _check_stop(getattr(fields, "stop", None), limits)
    _check_words("bad_words", getattr(fields, "bad_words", None) or (), limits)
    _check_template(getattr(fields, "chat_template_kwargs", None))
    _check_answers(fields, answers, limits)
    if isinstance(fields, Responses):
        check_items(fields.input)
    check_media(value, limits)


def check_logprobs(
    fields: Fields, answers: int, prompt_tokens: int, max_model_len: int, limits: RequestLimits
) -> None:
    """What would come in one piece: of the output where the answer is not streamed, of the prompt always.
    `prompt_tokens` are those of all prompts. Raises ApiError 400."""
    if not isinstance(fields, Chat | Completion | Responses):
        return
    field, each = _logprobs_a_token(fields)
    most = most_output(fields, limits)
    if most is None:
        most = max(0, max_model_len - prompt_tokens)
    asked = [(field, 0 if fields.stream else each * answers * most)]
    if isinstance(fields, Completion) and fields.echo:
        asked.append((field, each * prompt_tokens * (fields.n or 1)))
    if not isinstance(fields, Responses) and fields.prompt_logprobs is not None:
        each_answer = (1 + fields.prompt_logprobs) * prompt_tokens
        asked.append(("prompt_logprobs", each_answer * (fields.n or 1)))
    elif isinstance(fields, Chat) and fields.echo:
        # vLLM then tells those of the prompt too, also where `logprobs` is off.
        asked.append(("echo", (1 + (fields.top_logprobs or 0)) * prompt_tokens * (fields.n or 1)))
    limit = limits.max_logprob_entries
    for number, (name, count) in enumerate(asked):
        if count > limit:
            # Those of a prompt come in one piece though the answer is streamed.
            hint = f"ask for fewer tokens or fewer of each{'' if number else ', or stream'}"
            reason = f"{name}: up to {count} log probabilities exceed the limit of {limit}: {hint}"
            raise ApiError(400, "invalid_value", reason, name)


def _logprobs_a_token(fields: Chat | Completion | Responses) -> tuple[str, int]:
    """The field that asks for them, and how many: the token's own, and others."""
    if isinstance(fields, Completion):
        field, others = "logprobs", fields.logprobs
    elif isinstance(fields, Responses):
        field, others = "top_logprobs", fields.top_logprobs or None
    else:
        field, others = "top_logprobs", (fields.top_logprobs or 0) if fields.logprobs else None
    if not isinstance(fields, Responses) and fields.logprob_token_ids:
        others = (others or 0) + len(fields.logprob_token_ids)
    return field, 0 if others is None else 1 + others


def _check_count(name: str, items: Any, limit: int) -> None:
    if items is not None and len(items) > limit:
        raise exceeds(name, f"{len(items)} items", limit)


def _check_number(name: str, number: Any, limit: int | None) -> None:
    if limit is not None and number is not None and number > limit:
        raise invalid(name, number, f"exceeds the limit of {limit}")


def _check_chars(name: str, text: str | None, limit: int) -> None:
    if text is not None and len(text) > limit:
        raise exceeds(name, f"{len(text)} characters", limit)


def _check_metadata(metadata: dict[str, str] | None, limits: RequestLimits) -> None:
    for key, label in (metadata or {}).items():
        name = f"metadata.{key[:MAX_SHOWN_KEY]}"
        if len(key) > limits.max_label_chars:
            raise exceeds(name, f"{len(key)} characters of the key", limits.max_label_chars)
        _check_chars(name, label, limits.max_label_chars)


def _check_stop(stop: str | list[str] | None, limits: RequestLimits) -> None:
    strings = [stop] if isinstance(stop, str) else stop or []
    _check_count("stop", strings, limits.max_stop_strings)
    _check_words("stop", strings, limits)


def _check_words(name: str, words: Iterable[str], limits: RequestLimits) -> None:
    """What is compared with the text: the engine refuses an empty one too."""
    for word in words:
        if not word:
            raise invalid(name, word, "is empty")
        _check_chars(name, word, limits.max_stop_chars)


def _check_template(arguments: dict[str, Any] | None) -> None:
    for name in _TEMPLATE_NAMES & (arguments or {}).keys():
        reason = "chat_template_kwargs: may not replace what the template is given"
        raise ApiError(400, "forbidden_field", reason, f"chat_template_kwargs.{name}")


def _check_answers(fields: Fields, answers: int, limits: RequestLimits) -> None:
    if isinstance(fields, Embedding):
        if answers > limits.max_embedding_inputs:
            raise exceeds("input", f"{answers} items", limits.max_embedding_inputs)
    elif isinstance(fields, Chat | Completion) and answers > limits.max_choices:
        raise exceeds("n" if (fields.n or 1) > 1 else "prompt", f"{answers} answers", limits.max_choices)
