"""What a request has the engine read: its prompts, their tokens, and what of them may be in a cache."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from app.gateway.errors import half_pair, invalid
from app.gateway.schemas import Chat, Completion, Embedding, Fields, Responses
from app.gateway.tokens import TokenCounter
from app.gateway.values import written

# English in common vocabularies, where no tokenizer is at hand.
BYTES_A_TOKEN = 4
# What a chat template puts around a message.
TOKENS_A_MESSAGE = 4
# An index of prefixes looks no further than this: 16,384 tokens of 256 a block.
MAX_BLOCKS = 64
# Where the vocabulary is not known: what an engine holds a token id in.
MOST_TOKEN_IDS = 2**31

# Parts of a message whose text is not called `text`.
_NAMED_AS_THEIR_TYPE = ("thinking", "refusal")

# A text, or token ids.
Text = str | list[int]


@dataclass(frozen=True, slots=True)
class Asked:
    """Prompts, each read alone, its texts one after the other.

    `answers` are how many the engine gives at the same time; an input to embed counts as one. `overhead` is a
    guess, in tokens, of what the chat template adds to a prompt: nothing is refused for it.
    """

    prompts: list[list[Text]]
    answers: int
    overhead: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """A text or a list of token ids of a prompt. `ids` are empty where they are not known."""

    ids: Sequence[int]
    # The best guess, and what the engine will count at least.
    tokens: int
    at_least: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """All prompts of a request. `blocks`: chained hashes of their blocks, first block first."""

    tokens: int
    blocks: tuple[int, ...]


def asked(fields: Fields, value: Mapping[str, Any]) -> Asked:
    """`value` is what `fields` were read from. Raises ApiError 400 for what is no prompt."""
    if isinstance(fields, Completion):
        prompts = _separate("prompt", fields.prompt)
        return Asked(prompts, (fields.n or 1) * len(prompts))
    if isinstance(fields, Embedding):
        inputs = _separate("input", fields.input)
        return Asked(inputs, len(inputs))
    if isinstance(fields, Chat):
        messages = [message.model_extra or {} for message in fields.messages]
        texts: list[Text] = [text for message in messages for text in _texts(message.get("content"))]
        calls = [call.get("function") for message in messages for call in _objects(message.get("tool_calls"))]
        thoughts = [message.get("reasoning") or message.get("reasoning_content") for message in messages]
        around = _guessed("tools", [value.get("tools")]) + _guessed("messages", calls + thoughts)
        around += _guessed("documents", [value.get("documents")])
        return Asked([texts], fields.n or 1, TOKENS_A_MESSAGE * len(messages) + around)
    if isinstance(fields, Responses):
        items = _objects(fields.input)
        texts = [fields.input] if isinstance(fields.input, str) else [*chain(*map(_item_texts, items))]
        calls = [item.get(name) for item in items for name in ("arguments", "output")]
        # Of thoughts the engine reads a summary only where they are not told themselves.
        thoughts = [item.get("content") or item.get("summary") for item in items if _is_thought(item)]
        around = _guessed("tools", [value.get("tools")])
        around += _guessed("input", [fields.instructions, *calls, *thoughts])
        return Asked([texts], 1, around)
    # Counts a text's tokens, or reads them back: no prompt.
    return Asked([], 1)


def check_texts(field: str, prompts: Sequence[Sequence[Text]], counter: TokenCounter | None) -> None:
    """Raises ApiError 400 for what is neither characters nor tokens of the model."""
    for text in chain.from_iterable(prompts):
        if isinstance(text, list):
            _check_tokens(field, text, counter)
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise half_pair(field, error) from None


def count(texts: Sequence[Text], counter: TokenCounter | None, window: int) -> list[Part]:
    """The parts of a prompt, up to the first that makes it more than the `window` holds."""
    parts: list[Part] = []
    at_least = 0
    for text in texts:
        parts.append(_part(text, counter, window))
        at_least += parts[-1].at_least
        if at_least > window:
            break
    return parts


def prompt_of(
    prompts: Sequence[Sequence[Part]], overhead: int, most: int | None, salt: str, block: int
) -> Prompt:
    """All prompts one after the other, each with its `overhead`, cut to `most` tokens; blocks of `block`."""
    tokens, kept = 0, list[Part]()
    for parts in prompts:
        whole = sum(part.tokens for part in parts) + overhead
        if most is None or whole <= most:
            tokens += whole
            kept += parts
        else:
            # Which end is cut is the engine's to know, so no beginning is known here.
            tokens += most
    ids = islice(chain.from_iterable(part.ids for part in kept), MAX_BLOCKS * block)
    return Prompt(tokens, _chained(list(ids), salt, block))


def _separate(field: str, value: Any) -> list[list[Text]]:
    """A text, token ids, or a list of either, as prompts of one text each."""
    if _is_tokens(value):
        return [[value]]
    prompts = value if isinstance(value, list) else [value]
    if not prompts:
        raise invalid(field, value, "is empty")
    for prompt in prompts:
        if not isinstance(prompt, str) and not _is_tokens(prompt):
            raise invalid(field, prompt, "is neither a text nor a list of token ids", "invalid_type")
        if not prompt:
            raise invalid(field, prompt, "is empty")
    return [[prompt] for prompt in prompts]


def _is_tokens(value: object) -> bool:
    # To Python `true` is an int.
    return isinstance(value, list) and set(map(type, value)) == {int}


def _texts(content: object) -> Iterator[str]:
    """Of a message's content: a text, or a list of texts and of parts with one each."""
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict):
            type_ = part.get("type")
            part = part.get(type_ if type_ in _NAMED_AS_THEIR_TYPE else "text")
        if isinstance(part, str):
            yield part


def _item_texts(item: dict[str, Any]) -> Iterator[str]:
    """What surely gets into the prompt: earlier thoughts may not, and of an earlier answer one part does."""
    content = item.get("content")
    if _is_thought(item):
        return iter(())
    if item.get("role") == "assistant" and isinstance(content, list):
        content = content[:1]
    return _texts(content)


def _is_thought(item: dict[str, Any]) -> bool:
    return item.get("type") == "reasoning"


def _objects(items: object) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _guessed(field: str, values: Iterable[object]) -> int:
    """Tokens of what a chat template writes in a way of its own."""
    return sum(len(written(field, value)) for value in values if value is not None) // BYTES_A_TOKEN


def _check_tokens(field: str, ids: list[int], counter: TokenCounter | None) -> None:
    if (least := min(ids)) < 0:
        raise invalid(field, least, "is no token id: the least is 0")
    vocabulary = MOST_TOKEN_IDS if counter is None else counter.vocabulary
    if (greatest := max(ids)) >= vocabulary:
        raise invalid(field, greatest, f"is no token id: the greatest is {vocabulary - 1}")


def _part(text: Text, counter: TokenCounter | None, window: int) -> Part:
    """Exact up to about twice the window of the model, a lower bound beyond."""
    if isinstance(text, list):
        return Part(text, len(text), len(text))
    if counter is None:
        return Part((), len(text.encode()) // BYTES_A_TOKEN, 0)
    ids = counter.ids(text, window)
    return Part(ids, len(ids), len(ids))


def _chained(ids: Sequence[int], salt: str, block: int) -> tuple[int, ...]:
    """Each hash covers everything before it, and the salt: equal hashes, equal beginnings of one tenant."""
    digest = hashlib.blake2b(salt.encode(), digest_size=8).digest()
    hashes = []
    for start in range(0, len(ids) // block * block, block):
        chunk = array("q", ids[start : start + block]).tobytes()
        digest = hashlib.blake2b(digest + chunk, digest_size=8).digest()
        hashes.append(int.from_bytes(digest, "big"))
    return tuple(hashes)
