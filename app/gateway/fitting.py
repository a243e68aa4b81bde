"""Whether what a request has the engine read, and what it wants written, fits into the model's window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from app.gateway.errors import ApiError, exceeds, invalid
from app.gateway.prompt import Asked, Part, check_texts, count
from app.gateway.sampling import asked_output
from app.gateway.schemas import Chat, Completion, Detokenize, Embedding, Fields, Responses, Tokenize
from app.gateway.template import template_chars
from app.gateway.tokens import COUNTED_BYTES_PER_TOKEN, TokenCounter

# OpenAI's own code for it.
CONTEXT_EXCEEDED = "context_length_exceeded"
# What is to be cut may be so many times as long as the longest text that fits: documents of which the
# beginning is embedded. All of it is read, on the one thread that an engine has for it.
CUT_FACTOR = 8


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


def fit(
    fields: Fields, value: Mapping[str, Any], reads: Asked, counter: TokenCounter | None, max_model_len: int
) -> Fitted:
    """Raises ApiError 400 for what can't fit, as far as that is known without the chat template. `value` is
    what `fields` were read from."""
    check_texts(fields.prompt_field, reads.prompts, counter)
    output = _output(fields)
    if isinstance(fields, Detokenize):
        _check_fits("tokens", len(fields.tokens), output, max_model_len)
    most = _cut(fields, max_model_len - output.tokens)
    _check_length(fields, value, reads, most is not None, max_model_len * COUNTED_BYTES_PER_TOKEN)
    prompts = []
    for texts in reads.prompts:
        prompts.append(count(texts, counter, max_model_len))
        # The engine cuts what is too long, where it is asked to.
        at_least = 0 if most is not None else sum(part.at_least for part in prompts[-1])
        _check_fits(fields.prompt_field, at_least, output, max_model_len)
    return Fitted(prompts, most)


def _output(fields: Fields) -> _Output:
    if not isinstance(fields, Chat | Completion | Responses):
        return _Output(fields.prompt_field, 0)
    named, asked = asked_output(fields)
    if asked is None and isinstance(fields, Chat) and fields.min_tokens:
        return _Output("min_tokens", fields.min_tokens)
    return _Output(named, asked or 1)


def _cut(fields: Fields, room: int) -> int | None:
    """How many tokens of a prompt the engine keeps; None where it is not to cut."""
    if isinstance(fields, Responses):
        return room if fields.truncation == "auto" else None
    most: int | None = getattr(fields, "truncate_prompt_tokens", None)
    return room if most == -1 else most


def _check_length(
    fields: Fields, value: Mapping[str, Any], reads: Asked, is_cut: bool, window_chars: int
) -> None:
    """Of what the engine reads to its end, however long: what it is to cut, and what it is only to count."""
    if not is_cut and not isinstance(fields, Tokenize):
        return
    limit = CUT_FACTOR * window_chars if is_cut else window_chars
    for field, chars in _lengths(fields, value, reads):
        if chars > limit:
            raise exceeds(field, f"{chars} characters", limit)


def _lengths(fields: Fields, value: Mapping[str, Any], reads: Asked) -> Iterator[tuple[str, int]]:
    """The characters of each prompt, and the field that holds it."""
    if isinstance(fields, Completion | Embedding):
        for text in chain.from_iterable(reads.prompts):
            if isinstance(text, str):
                yield fields.prompt_field, len(text)
    elif isinstance(fields, Tokenize):
        yield "prompt", len(fields.prompt or "")
        if fields.messages is not None:
            yield "messages", template_chars("messages", value)
    else:
        yield fields.prompt_field, template_chars(fields.prompt_field, value)


def _check_fits(field: str, prompt_tokens: int, output: _Output, max_model_len: int) -> None:
    if prompt_tokens + output.tokens <= max_model_len:
        return
    # OpenAI's words: clients that cut what is too long know it by them.
    limit = f"This model's maximum context length is {max_model_len} tokens."
    if output.tokens > max_model_len:
        raise invalid(output.field, output.tokens, f"tokens do not fit. {limit}", CONTEXT_EXCEEDED)
    reason = f"{field}: {prompt_tokens} tokens or more, and {output.tokens} of output, do not fit. {limit}"
    raise ApiError(400, CONTEXT_EXCEEDED, reason, field)
