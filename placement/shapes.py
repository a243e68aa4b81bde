"""What a parallel plan must divide, as the configuration file states it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from placement.models import LanguageModel, catalogued


class ModelShape(BaseModel):
    """What a parallel plan must divide. Counts, no units."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    # Width of the feed-forward; None: only the engine can check it.
    ffn: int | None = Field(default=None, ge=1)


def known_shape(source: str) -> ModelShape | None:
    """The shape of a model by Hugging Face id or embedded name; None when it is not in the catalogue."""
    model = catalogued(source)
    return None if model is None else shape_of(model)


def shape_of(model: LanguageModel) -> ModelShape:
    return ModelShape(layers=model.layers, heads=model.heads, kv_heads=model.kv_heads, ffn=model.ffn)
