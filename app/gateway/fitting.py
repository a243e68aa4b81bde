"""Whether what a request has the engine read, and what it wants written, fits into the model's window."""

from __future__ import annotations

from dataclasses import dataclass

from app.gateway.errors import ApiError, exceeds, invalid
from app.gateway.prompt import Asked, Part, check_texts, count
from app.gateway.schemas import Chat, Completion, Detokenize, Fields, Responses, Tokenize
from app.gateway.tokens import COUNTED_BYTES_PER_TOKEN, TokenCounter

# OpenAI's own code for it.
CONTEXT_EXCEEDED = "context_length_exceeded"


@dataclass(frozen=True, slots=True)
class Fitted:
    """The parts of each prompt, counted. `most`: tokens to which the engine cuts each; None: it is not to."""

    prompts: list[list[Part]]
    most: int | None


@dataclass(frozen=True, slots=True)
class _Output:
    """How many tokens of the window an answer takes at least, and the field that says so."""

    field: str
    tokens: int


def fit(fields: Fields, reads: Asked, counter: TokenCounter | None, max_model_len: int) -> Fitted:
    """Raises ApiError 400 for what can't fit, as far as that is known without the chat template."""
    check_texts(fields.prompt_field, reads.prompts, counter)
    _check_counted(fields, max_model_len)
    output = _output(fields)
    most = _cut(fields, max_model_len - output.tokens)
    prompts = []
    for texts in reads.prompts:
        prompts.append(count(texts, counter, max_model_len))
        # The engine cuts what is too long, where it is asked to.
        at_least = 0 if most is not None else sum(part.at_least for part in prompts[-1])
        _check_fits(fields.prompt_field, at_least, output, max_model_len)
    return Fitted(prompts, most)


def _output(fields: Fields) -> _Output:
    if isinstance(fields, Chat):
        named = "max_tokens" if fields.max_completion_tokens is None else "max_completion_tokens"
        asked = fields.max_completion_tokens or fields.max_tokens
        if asked is None and fields.min_tokens:
            return _Output("min_tokens", fields.min_tokens)
        return _Output(named, asked or 1)
    if isinstance(fields, Completion):
        return _Output("max_tokens", fields.max_tokens or 1)
    if isinstance(fields, Responses):
        return _Output("max_output_tokens", fields.max_output_tokens or 1)
    return _Output(fields.prompt_field, 0)


def _cut(fields: Fields, room: int) -> int | None:
    """How many tokens of a prompt the engine keeps; None where it is not to cut."""
    if isinstance(fields, Responses):
        return room if fields.truncation == "auto" else None
    most: int | None = getattr(fields, "truncate_prompt_tokens", None)
    return room if most == -1 else most


def _check_counted(fields: Fields, max_model_len: int) -> None:
    """Of what is only counted, or read back."""
    if isinstance(fields, Detokenize):
        _check_fits("tokens", len(fields.tokens), _output(fields), max_model_len)
    if isinstance(fields, Tokenize) and fields.prompt is not None:
        limit_chars = max_model_len * COUNTED_BYTES_PER_TOKEN
        if len(fields.prompt) > limit_chars:
            raise exceeds("prompt", f"{len(fields.prompt)} characters", limit_chars)


def _check_fits(field: str, prompt_tokens: int, output: _Output, max_model_len: int) -> None:
    if prompt_tokens + output.tokens <= max_model_len:
        return
    limit = f"the model's window of {max_model_len} tokens"
    if output.tokens > max_model_len:
        raise invalid(output.field, output.tokens, f"exceeds {limit}", CONTEXT_EXCEEDED)
    reason = f"{field}: {prompt_tokens} tokens or more, and {output.tokens} of output, exceed {limit}"
    raise ApiError(400, CONTEXT_EXCEEDED, reason, field)
