"""Shapes of the models whose parallel plan can be checked without loading them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ModelShape(BaseModel):
    """What a parallel plan must divide. Counts, no units."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)


# Source: the models' published config.json (num_hidden_layers, hidden_size, num_attention_heads,
# num_key_value_heads).
_SHAPES = {
    "meta-llama/Meta-Llama-3-70B-Instruct": ModelShape(layers=80, hidden=8192, heads=64, kv_heads=8),
    "meta-llama/Llama-3.1-70B-Instruct": ModelShape(layers=80, hidden=8192, heads=64, kv_heads=8),
    "meta-llama/Llama-3.3-70B-Instruct": ModelShape(layers=80, hidden=8192, heads=64, kv_heads=8),
    "meta-llama/Llama-3.1-8B-Instruct": ModelShape(layers=32, hidden=4096, heads=32, kv_heads=8),
    "embedded:smollm2-135m-instruct": ModelShape(layers=30, hidden=576, heads=9, kv_heads=3),
    "embedded:tiny-llama": ModelShape(layers=8, hidden=256, heads=8, kv_heads=4),
}


def known_shape(source: str) -> ModelShape | None:
    """The shape of a model by Hugging Face id or embedded name; None when it is not in the catalogue."""
    return _SHAPES.get(source)
