"""Language models: the numbers that decide weights, KV cache and operations.

Catalogue entries copy the models' published `config.json`; any other model comes from its own file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A decoder-only transformer with grouped-query attention and gated feed-forward blocks. Counts."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    head_dim: int
    tied_embeddings: bool = False
    experts: int = 1
    experts_per_token: int = 1
    qk_norm: bool = False
    qkv_bias: bool = False

    @property
    def attention_parameters_per_layer(self) -> int:
        query, key_value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        bias = query + 2 * key_value if self.qkv_bias else 0
        return self.hidden * (2 * query + 2 * key_value) + bias

    @property
    def expert_parameters(self) -> int:
        """One expert of one layer (the whole feed-forward block of a dense model)."""
        return 3 * self.hidden * self.ffn

    @property
    def norm_parameters_per_layer(self) -> int:
        return 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def router_parameters_per_layer(self) -> int:
        return self.hidden * self.experts if self.experts > 1 else 0

    @property
    def parameters_per_layer(self) -> int:
        return (
            self.attention_parameters_per_layer
            + self.experts * self.expert_parameters
            + self.norm_parameters_per_layer
            + self.router_parameters_per_layer
        )

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        tables = 1 if self.tied_embeddings else 2
        return self.layers * self.parameters_per_layer + tables * self.embedding_parameters + self.hidden

    @property
    def active_parameters(self) -> int:
        """Parameters that one token touches (a mixture of experts leaves most alone)."""
        idle = (self.experts - self.experts_per_token) * self.expert_parameters
        return self.parameters - self.layers * idle

    def kv_bytes_per_token(self, kv_dtype: str) -> int:
        """Keys and values of all layers, all heads; "bfloat16" or "fp8"."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value(kv_dtype)


def bytes_per_value(dtype: str) -> int:
    """Bytes of one stored value; ValueError for a dtype without a rule."""
    sizes = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}
    if dtype not in sizes:
        raise ValueError(f"dtype: {dtype!r} is not one of {', '.join(sizes)}")
    return sizes[dtype]


def _llama(name: str, layers: int, hidden: int, heads: int, ffn: int, vocab: int = 128256) -> LanguageModel:
    return LanguageModel(name, layers, hidden, heads, 8, ffn, vocab, hidden // heads)


_LLAMA_70B = _llama("Llama-3.x-70B", 80, 8192, 64, 28672)
_LLAMA_8B = _llama("Llama-3.1-8B", 32, 4096, 32, 14336)
_LLAMA_405B = _llama("Llama-3.1-405B", 126, 16384, 128, 53248)
_LLAMA2_70B = _llama("Llama-2-70B", 80, 8192, 64, 28672, vocab=32000)
_QWEN25_72B = LanguageModel("Qwen2.5-72B", 80, 8192, 64, 8, 29568, 152064, 128, qkv_bias=True)
_QWEN3_32B = LanguageModel("Qwen3-32B", 64, 5120, 64, 8, 25600, 151936, 128, qk_norm=True)
_MIXTRAL = LanguageModel("Mixtral-8x7B", 32, 4096, 32, 8, 14336, 32000, 128, experts=8, experts_per_token=2)
_SMOLLM2 = LanguageModel("SmolLM2-135M", 30, 576, 9, 3, 1536, 49152, 64, tied_embeddings=True)
_TINY = LanguageModel("tiny-llama", 8, 256, 8, 4, 688, 1024, 32)

# Hugging Face ids and embedded names. Source: each model's config.json.
CATALOGUE: Mapping[str, LanguageModel] = {
    "meta-llama/Meta-Llama-3-70B-Instruct": _LLAMA_70B,
    "meta-llama/Llama-3.1-70B": _LLAMA_70B,
    "meta-llama/Llama-3.1-70B-Instruct": _LLAMA_70B,
    "meta-llama/Llama-3.3-70B-Instruct": _LLAMA_70B,
    "nvidia/Llama-3.1-70B-Instruct-FP8": _LLAMA_70B,
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "nvidia/Llama-3.1-8B-Instruct-FP8": _LLAMA_8B,
    "meta-llama/Llama-3.1-405B-Instruct": _LLAMA_405B,
    "meta-llama/Llama-2-70b-chat-hf": _LLAMA2_70B,
    "Qwen/Qwen2.5-72B-Instruct": _QWEN25_72B,
    "Qwen/Qwen3-32B": _QWEN3_32B,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": _MIXTRAL,
    "embedded:smollm2-135m-instruct": _SMOLLM2,
    "embedded:tiny-llama": _TINY,
}

# Short names for the command line.
ALIASES: Mapping[str, str] = {
    "llama70b": "meta-llama/Llama-3.3-70B-Instruct",
    "llama8b": "meta-llama/Llama-3.1-8B-Instruct",
    "llama405b": "meta-llama/Llama-3.1-405B-Instruct",
    "llama2-70b": "meta-llama/Llama-2-70b-chat-hf",
    "qwen72b": "Qwen/Qwen2.5-72B-Instruct",
    "qwen32b": "Qwen/Qwen3-32B",
    "mixtral": "mistralai/Mixtral-8x7B-Instruct-v0.1",
}


def catalogued(source: str) -> LanguageModel | None:
    """The entry of a Hugging Face id, an embedded name or an alias; None when there is none."""
    return CATALOGUE.get(ALIASES.get(source, source))


def find_model(source: str) -> LanguageModel:
    """A catalogued model, else the `config.json` at that path. ValueError names what is known."""
    known = catalogued(source)
    if known is not None:
        return known
    path = Path(source)
    file = path / "config.json" if path.is_dir() else path
    if file.is_file():
        return from_hugging_face(json.loads(file.read_text()), name=source)
    raise ValueError(
        f"model: {source!r} is neither catalogued ({', '.join(ALIASES)} or a full id) nor a config.json"
    )


def from_hugging_face(config: Mapping[str, object], name: str) -> LanguageModel:
    """Read a Llama-like `config.json` (dense, or a mixture of experts). ValueError names a missing field."""

    def count(*keys: str, default: int | None = None) -> int:
        for key in keys:
            value = config.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
            if value is not None:
                raise ValueError(f"{name}: {key}: {value!r} is not a positive integer")
        if default is None:
            raise ValueError(f"{name}: config.json has no {' or '.join(keys)}")
        return default

    hidden, heads = count("hidden_size"), count("num_attention_heads")
    experts = count("num_local_experts", "num_experts", default=1)
    ffn_keys = ("moe_intermediate_size", "intermediate_size") if experts > 1 else ("intermediate_size",)
    return LanguageModel(
        name=name,
        layers=count("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=count("num_key_value_heads", default=heads),
        ffn=count(*ffn_keys),
        vocab=count("vocab_size"),
        head_dim=count("head_dim", default=hidden // heads),
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        experts=experts,
        experts_per_token=count("num_experts_per_tok", default=1),
        qk_norm=config.get("model_type") in ("qwen3", "qwen3_moe"),
        qkv_bias=bool(config.get("attention_bias")) or config.get("model_type") in ("qwen2", "qwen2_moe"),
    )
