"""Language models: the numbers that decide weights, KV cache and operations.

Catalogue entries copy the models' published `config.json`; any other model comes from its own file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from placement.quantization import stored_cache, stored_weights


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
    # What the published weights are stored in.
    weight_dtype: str = "bfloat16"
    # What the cache is stored in where nothing else is asked for.
    kv_dtype: str = "bfloat16"
    # The longest request that it was made for, prompt and output, tokens; None: not known.
    context: int | None = None

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

    def kv_bytes_per_token(self, kv_dtype: str) -> int:
        """Keys and values of all layers, all heads; "bfloat16" or "fp8"."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value(kv_dtype)


SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "auto": 2, "fp8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1}


def bytes_per_value(dtype: str) -> int:
    """Bytes of one stored value; ValueError for a dtype without a rule."""
    if dtype not in SIZES:
        raise ValueError(f"dtype: {dtype!r} is not one of {', '.join(SIZES)}")
    return SIZES[dtype]


def _llama(
    name: str, layers: int, hidden: int, heads: int, ffn: int, vocab: int = 128256, context: int = 131072
) -> LanguageModel:
    return LanguageModel(name, layers, hidden, heads, 8, ffn, vocab, hidden // heads, context=context)


_LLAMA_70B = _llama("Llama-3.x-70B", 80, 8192, 64, 28672)
_LLAMA3_70B = replace(_LLAMA_70B, context=8192)
_LLAMA_8B = _llama("Llama-3.1-8B", 32, 4096, 32, 14336)
_LLAMA_405B = _llama("Llama-3.1-405B", 126, 16384, 128, 53248)
_LLAMA2_70B = _llama("Llama-2-70B", 80, 8192, 64, 28672, vocab=32000, context=4096)
_QWEN25_72B = LanguageModel("Qwen2.5-72B", 80, 8192, 64, 8, 29568, 152064, 128, qkv_bias=True, context=32768)
_QWEN3_32B = LanguageModel("Qwen3-32B", 64, 5120, 64, 8, 25600, 151936, 128, qk_norm=True, context=40960)
_MIXTRAL = LanguageModel(
    "Mixtral-8x7B", 32, 4096, 32, 8, 14336, 32000, 128, experts=8, experts_per_token=2, context=32768
)
_SMOLLM2 = LanguageModel("SmolLM2-135M", 30, 576, 9, 3, 1536, 49152, 64, tied_embeddings=True)
_TINY = LanguageModel("tiny-llama", 8, 256, 8, 4, 688, 1024, 32)

# Hugging Face ids and embedded names. Source: each model's config.json.
CATALOGUE: Mapping[str, LanguageModel] = {
    "meta-llama/Meta-Llama-3-70B-Instruct": _LLAMA3_70B,
    "meta-llama/Llama-3.1-70B": _LLAMA_70B,
    "meta-llama/Llama-3.1-70B-Instruct": _LLAMA_70B,
    "meta-llama/Llama-3.3-70B-Instruct": _LLAMA_70B,
    "nvidia/Llama-3.1-70B-Instruct-FP8": replace(_LLAMA_70B, weight_dtype="fp8"),
    "meta-llama/Llama-3.1-8B": _LLAMA_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_8B,
    "nvidia/Llama-3.1-8B-Instruct-FP8": replace(_LLAMA_8B, weight_dtype="fp8"),
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


class NotDescribed(ValueError):
    """A model of an architecture that `LanguageModel` does not describe."""


# By `model_type`: equal layers, attention over all tokens, a gated feed-forward or a mixture of such.
_DESCRIBED = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe")


def catalogued(source: str) -> LanguageModel | None:
    """The entry of a Hugging Face id or an embedded name; None when there is none."""
    return CATALOGUE.get(source)


def known_model(source: str) -> LanguageModel | None:
    """A catalogued model, or a folder's of an architecture that is described. ValueError names a folder whose
    files can't be used."""
    try:
        return _named(source)
    except NotDescribed:
        return None


def _named(source: str) -> LanguageModel | None:
    file = Path(source) / "config.json"
    if (known := catalogued(source)) is not None or not file.is_file():
        return known
    return _read(file, source)


def find_model(source: str) -> LanguageModel:
    """A catalogued model or an alias, else the `config.json` at that path. ValueError names what is known."""
    if (known := _named(ALIASES.get(source, source))) is not None:
        return known
    if Path(source).is_file():
        return _read(Path(source), source)
    raise ValueError(
        f"model: {source!r} is neither catalogued ({', '.join(ALIASES)} or a full id) nor a config.json"
    )


def _read(file: Path, name: str) -> LanguageModel:
    content, beside = _object(file, name), file.with_name("hf_quant_config.json")
    if content.get("quantization_config") is None and beside.is_file():
        content["quantization_config"] = _object(beside, name)
    return from_hugging_face(content, name)


def _object(file: Path, name: str) -> dict[str, object]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"model: {name}: its {file.name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"model: {name}: its {file.name} holds no object")
    return content


def from_hugging_face(config: Mapping[str, object], name: str) -> LanguageModel:
    """Read a Llama-like `config.json` (dense, or a mixture of experts). ValueError names a missing field,
    NotDescribed one that says that the model is another."""
    kind = config.get("model_type")
    windowed = config.get("use_sliding_window", kind in ("mistral", "mixtral"))
    for key, described in (
        ("model_type", kind in _DESCRIBED),
        ("decoder_sparse_step", config.get("decoder_sparse_step", 1) == 1),
        ("mlp_only_layers", not config.get("mlp_only_layers")),
        ("sliding_window", not (windowed and config.get("sliding_window"))),
    ):
        if not described:
            raise NotDescribed(f"{name}: {key}: {config.get(key)!r}: this architecture is not modelled")

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

    said = config.get("quantization_config")
    stored = said if isinstance(said, Mapping) else None
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
        qk_norm=kind in ("qwen3", "qwen3_moe"),
        qkv_bias=bool(config.get("attention_bias")) or kind == "qwen2",
        weight_dtype=stored_weights(stored),
        kv_dtype=stored_cache(stored),
        # What stretches the positions stretches the context, by rules of its own.
        context=None if _is_stretched(config) else count("max_position_embeddings", default=0) or None,
    )


def _is_stretched(config: Mapping[str, object]) -> bool:
    """Transformers 5 has `rope_parameters` for what was `rope_scaling`, and always writes them."""
    parameters = config.get("rope_parameters")
    kind = parameters.get("rope_type", "default") if isinstance(parameters, dict) else "default"
    return bool(config.get("rope_scaling")) or kind != "default"
