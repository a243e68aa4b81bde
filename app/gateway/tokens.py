"""Counting tokens at the edge, with the model's own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

# Text beyond this many bytes a token of window is not counted: no tokenizer packs it so densely, so the
# first part alone tells that it does not fit.
COUNTED_BYTES_PER_TOKEN = 16


class TokenCounter:
    """Counts without special tokens: never more than the engine will count."""

    def __init__(self, tokenizer: Tokenizer, model_vocabulary: int = 0) -> None:
        self._tokenizer = tokenizer
        # Token ids are less. A model may have more of them than texts have, and the other way about.
        self.vocabulary = max([*tokenizer.get_vocab().values(), model_vocabulary - 1]) + 1

    @classmethod
    def from_files(cls, tokenizer: Path, config: Path) -> TokenCounter:
        """Reads a `tokenizer.json` and a `config.json`. OSError when there is none."""
        if not tokenizer.is_file():
            raise FileNotFoundError(tokenizer)
        return cls(Tokenizer.from_file(str(tokenizer)), _vocabulary(json.loads(config.read_text())))

    def ids(self, text: str, window: int) -> list[int]:
        """The tokens of `text`, all of them up to about twice the window."""
        counted = text[: window * COUNTED_BYTES_PER_TOKEN]
        # As a batch: `encode` keeps the interpreter's lock, and with it the event loop of a gateway.
        ids: list[int] = self._tokenizer.encode_batch_fast([counted], add_special_tokens=False)[0].ids
        return ids


def _vocabulary(config: dict[str, Any]) -> int:
    """Models of more than text keep what is of the text apart."""
    return int((config.get("text_config") or config).get("vocab_size") or 0)
