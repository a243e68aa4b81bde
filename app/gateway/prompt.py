"""What a prompt will cost the engine: its tokens, and which of them may be in a cache already."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from app.gateway.tokens import TokenCounter

# English in common vocabularies, where no tokenizer is at hand.
BYTES_A_TOKEN = 4
# An index of prefixes looks no further than this: 16,384 tokens of 256 a block.
MAX_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class Part:
    """A text or a list of token ids of a prompt. `ids` are empty where they are not known."""

    ids: Sequence[int]
    # The best guess, and what the engine will count at least.
    tokens: int
    at_least: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """`blocks`: chained hashes of the prompt's blocks, first block first."""

    tokens: int
    blocks: tuple[int, ...]


def part_of(value: str | list[int], counter: TokenCounter | None, window: int) -> Part:
    """Exact up to about twice the window of the model, a lower bound beyond."""
    if isinstance(value, list):
        return Part(value, len(value), len(value))
    if counter is None:
        return Part((), len(value.encode()) // BYTES_A_TOKEN, 0)
    ids = counter.ids(value, window)
    return Part(ids, len(ids), len(ids))


def prompt_of(parts: Sequence[Part], overhead: int, salt: str, block: int) -> Prompt:
    """All parts one after the other, and the `overhead` of the chat template; blocks of `block` tokens."""
    ids = [id_ for part in parts for id_ in part.ids]
    return Prompt(sum(part.tokens for part in parts) + overhead, _chained(ids, salt, block))


def _chained(ids: Sequence[int], salt: str, block: int) -> tuple[int, ...]:
    """Each hash covers everything before it, and the salt: equal hashes, equal beginnings of one tenant."""
    digest = hashlib.blake2b(salt.encode(), digest_size=8).digest()
    hashes = []
    for start in range(0, min(len(ids) // block, MAX_BLOCKS) * block, block):
        chunk = array("q", ids[start : start + block]).tobytes()
        digest = hashlib.blake2b(digest + chunk, digest_size=8).digest()
        hashes.append(int.from_bytes(digest, "big"))
    return tuple(hashes)
