"""vLLM's two schedulers over a pipeline, at the pinned version: why one of them is switched off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from app.plan_check import plan_of
from tests.engine.test_arguments import arguments, changed

STAGES = 4
REQUESTS = 3
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 8,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 128,
}


@pytest.fixture
def scheduled(tmp_path: Path):
    """Requests in each batch that is scheduled before the first has come back from the last stage."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    engine = EngineArgs(
        str(tmp_path),
        skip_tokenizer_init=True,
        pipeline_parallel_size=STAGES,
        distributed_executor_backend="mp",
        max_model_len=128,
    ).create_engine_config()
    engine.cache_config.num_gpu_blocks = 100
    block = engine.cache_config.block_size
    cache = FullAttentionSpec(block_size=block, num_kv_heads=1, head_size=8, dtype=torch.float32)
    caches = KVCacheConfig(100, [], [KVCacheGroupSpec(["layer"], cache)])

    def batches(kind: type[Scheduler], *, asynchronous: bool) -> list[int]:
        engine.scheduler_config.async_scheduling = asynchronous
        assert (engine.use_v2_model_runner, engine.max_concurrent_batches) == (False, STAGES)
        scheduler = kind(engine, caches, StructuredOutputManager(engine), block_size=block)
        for number in range(REQUESTS):
            scheduler.add_request(Request(f"{number}", [1, 2, 3], SamplingParams(max_tokens=20), None))
        return [len(scheduler.schedule().num_scheduled_tokens) for _ in range(STAGES)]

    return batches


def test_the_synchronous_one_has_a_request_in_one_batch_at_a_time(scheduled):
    assert scheduled(Scheduler, asynchronous=False) == [REQUESTS, 0, 0, 0]


def test_the_asynchronous_one_has_every_request_in_every_batch(scheduled):
    """Each needs the tokens of the one before, so that the stages work one after the other. Where this fails
    vLLM has mended it, and `--no-async-scheduling` can go."""
    assert scheduled(AsyncScheduler, asynchronous=True) == [REQUESTS] * STAGES


def test_it_is_off_where_sequence_parallelism_needs_the_first_model_runner():
    assert "--no-async-scheduling" in arguments(changed("llama70b.yaml"))
    without = changed("llama70b.yaml", parallel={"sequence_parallelism": {"enabled": False}})
    assert "--no-async-scheduling" not in arguments(without)
    # And so the plan is priced.
    assert (plan_of(changed("llama70b.yaml")).async_scheduling, plan_of(without).async_scheduling) == (
        False,
        True,
    )
