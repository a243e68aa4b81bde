"""Counting tokens at the edge, with the model's own tokenizer."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

# Text beyond this many bytes a token of window is not counted: no tokenizer packs it so densely, so the
# first part alone tells that it does not fit.
COUNTED_BYTES_PER_TOKEN = 16


class TokenCounter:
    """Counts without special tokens: never more than the engine will count."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def from_file(cls, path: Path) -> TokenCounter:
        """Reads a `tokenizer.json`. OSError when there is none."""
        if not path.is_file():
            raise FileNotFoundError(path)
        return cls(Tokenizer.from_file(str(path)))

    def ids(self, text: str, window: int) -> list[int]:
        """The tokens of `text`, all of them up to about twice the window."""
        counted = text[: window * COUNTED_BYTES_PER_TOKEN]
        ids: list[int] = self._tokenizer.encode(counted, add_special_tokens=False).ids
        return ids
