"""vLLM's CPU platform as this application needs it."""

from __future__ import annotations

from typing import Any

from vllm.platforms.cpu import CpuPlatform
from vllm.v1.attention.backends.registry import AttentionBackendEnum

VECTOR_ATTENTION = "app.engine.cpu_attention.VectorAttentionBackend"


class ServingCpuPlatform(CpuPlatform):
    """Workers compute on the CPU and may each hold one logical GPU of a bundle."""

    # The resource name of a Ray worker's bundle.
    ray_device_key = "GPU"

    @classmethod
    def get_attn_backend_cls(cls, *arguments: Any, **options: Any) -> str:
        path = super().get_attn_backend_cls(*arguments, **options)
        return VECTOR_ATTENTION if path == AttentionBackendEnum.CPU_ATTN.get_path() else path
