"""vLLM's CPU platform under the resource name that Ray gives to GPUs."""

from __future__ import annotations

from vllm.platforms.cpu import CpuPlatform


class LogicalGpuPlatform(CpuPlatform):
    """Workers compute on the CPU and each holds one logical GPU of its bundle."""

    ray_device_key = "GPU"
