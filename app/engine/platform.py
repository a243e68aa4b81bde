"""A vLLM platform plugin: a CPU whose workers may live in bundles that name logical GPUs.

It lets the topology of a GPU node run, rank by rank and bundle by bundle, on a machine without one. vLLM
finds it by the entry point `vllm.platform_plugins`; without the variable below it stays out of the way.
"""

from __future__ import annotations

import os


def register() -> str | None:
    """The platform's class path, or None to leave the choice to vLLM."""
    if os.environ.get("PROMISESERVE_CPU") != "1":
        return None
    return "app.engine.cpu_platform.ServingCpuPlatform"
