"""Where the weights are: embedded models are made once in a cache folder, all others are vLLM's to load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.engine.models import smollm2, tiny
from app.engine.models.cache import Progress, default_cache, made_once

PREFIX = "embedded:"

# Each writes one model into an empty folder.
_MAKERS: dict[str, Callable[[Path, Progress], None]] = {
    "smollm2-135m-instruct": smollm2.make,
    "tiny-llama": tiny.make,
}


def prepare(source: str, *, cache: Path | None = None, progress: Progress = print) -> str:
    """What vLLM is given as its model: a folder for an embedded model, else the source itself.

    Takes about 15 s for an embedded model that is not in the cache. Raises ValueError for an embedded name
    that does not exist or whose source is damaged.
    """
    if not source.startswith(PREFIX):
        return source
    name = source.removeprefix(PREFIX)
    if name not in _MAKERS:
        known = ", ".join(PREFIX + known for known in sorted(_MAKERS))
        raise ValueError(f"model.source: {source!r} is not embedded; known: {known}")
    return str(made_once(name, _MAKERS[name], cache or default_cache(), progress))


def tokenizer_file(source: str, *, cache: Path | None = None) -> Path:
    """The model's `tokenizer.json`, from its folder or the Hugging Face hub. OSError when there is none."""
    folder = Path(prepare(source, cache=cache))
    if folder.is_dir():
        return folder / "tokenizer.json"
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(source, "tokenizer.json"))
