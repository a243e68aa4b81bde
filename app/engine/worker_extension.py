"""What vLLM's workers get from this application: a probe, and the truth on which batches are split.

With sequence parallelism, pipeline stages hand each other a residual that is split over the tensor-parallel
group, in batches that the compilation pass applies to. vLLM 0.29 takes all batches for split
(`is_residual_scattered_for_sp`): of a smaller one each later stage would get the first half twice, and answer
wrongly. Its workers import this module before they load the model.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.worker import gpu_model_runner, gpu_worker, utils

from app.engine.ranks import RankProbe

_with_sequence_parallelism = utils.is_residual_scattered_for_sp


def is_split(vllm_config: Any, num_input_tokens: int) -> bool:
    """Whether the compiled model leaves the residual of so many tokens, padding included, split."""
    if not _with_sequence_parallelism(vllm_config, num_input_tokens):
        return False
    fewest: int = vllm_config.compilation_config.pass_config.sp_min_token_num
    return num_input_tokens >= fewest


for module in (utils, gpu_model_runner, gpu_worker):
    module.is_residual_scattered_for_sp = is_split


class WorkerExtension(RankProbe):
    """vLLM's `worker_extension_cls`."""
