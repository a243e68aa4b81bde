"""The tokenizer's files, as Transformers and vLLM read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def write_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    *,
    eos_token: str,
    bos_token: str | None,
    chat_template: str,
    max_tokens: int,
) -> None:
    """`tokenizer.json`, `tokenizer_config.json` and `generation_config.json`: generation ends at EOS."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos_token,
        "eos_token": eos_token,
        "pad_token": eos_token,
        "model_max_length": max_tokens,
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
    }
    write_json(folder / "tokenizer_config.json", config)
    eos_token_id = tokenizer.token_to_id(eos_token)
    write_json(
        folder / "generation_config.json", {"eos_token_id": eos_token_id, "pad_token_id": eos_token_id}
    )


def write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
