"""vLLM's CPU attention without its AMX kernels.

With them and oneDNN's at work a bfloat16 model answers nonsense: asked for the capital of France, SmolLM2
under bare vLLM 0.29 did not say Paris; with either alone it does. (Inferred: both set up the CPU's matrix
tiles, and oneDNN relies on its own.) oneDNN's are worth keeping: linear layers take most of the time.
"""

from __future__ import annotations

from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionMetadataBuilder

TILES, VECTORS = "amx", "vec"


class VectorAttentionBackend(CPUAttentionBackend):
    """Attention by vector instructions."""

    @staticmethod
    def get_builder_cls() -> type[CPUAttentionMetadataBuilder]:
        return VectorAttentionMetadataBuilder


class VectorAttentionMetadataBuilder(CPUAttentionMetadataBuilder):
    """Chooses the kernels of its layers."""

    isa: str

    def _set_isa_to_layers(self, layer_names: list[str]) -> None:
        if self.isa == TILES:
            self.isa = VECTORS
        super()._set_isa_to_layers(layer_names)
