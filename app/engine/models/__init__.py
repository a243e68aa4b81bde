"""Where a model's files are: embedded models are prepared once, into a cache folder.

`embedded:` models need no network. Anything else is a Hugging Face id or a folder, which vLLM reads by
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from app.engine.models import smollm2, tiny
from app.engine.models.cache import Recipe, cache_root, make_once

EMBEDDED: dict[str, Recipe] = {
    "embedded:smollm2-135m-instruct": smollm2.RECIPE,
    "embedded:tiny-llama": tiny.RECIPE,
}


def prepare(
    source: str,
    *,
    cache: Path | None = None,
    verify: bool = False,
    progress: Callable[[str], None] = print,
) -> str:
    """The folder of an embedded model, made on first use; any other source is returned as it is.

    A cached model whose files have the wrong size is made again; `verify` also compares their SHA-256.
    Raises ValueError for an unknown `embedded:` name, and OSError where the model can't be made.
    """
    if not source.startswith("embedded:"):
        return source
    if source not in EMBEDDED:
        raise ValueError(f"model.source: {source!r} is not one of {', '.join(sorted(EMBEDDED))}")
    return str(make_once(EMBEDDED[source], cache or cache_root(), verify=verify, progress=progress))


def model_file(source: str, name: str, *, cache: Path | None = None) -> Path:
    """One of the model's files, as `tokenizer.json`; downloaded for a Hugging Face id. Raises OSError where
    it can't be had."""
    folder = Path(prepare(source, cache=cache))
    if folder.is_dir():
        return folder / name
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(hf_hub_download(source, name))
    except HFValidationError as error:
        raise FileNotFoundError(f"{source} is no folder here, and no Hugging Face id") from error
