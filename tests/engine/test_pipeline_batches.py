"""vLLM's schedulers at the pinned version: why one of them is switched off over a pipeline, and that prompts
share steps as the decision core takes it."""

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

from app.flow.prompts import PromptLine
from app.plan_check import plan_of
from tests.engine.test_arguments import arguments, changed

STAGES = 4
REQUESTS = 3
BUDGET, SHARE = 64, 24
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
def scheduler(tmp_path: Path):
    """One of vLLM's schedulers over a pipeline, with these prompts, each of a first token of its own."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))

    def build(kind: type[Scheduler], prompts: list[int], *, asynchronous: bool, **options: int) -> Scheduler:
        engine = EngineArgs(
            str(tmp_path),
            skip_tokenizer_init=True,
            pipeline_parallel_size=STAGES,
            distributed_executor_backend="mp",
            max_model_len=128,
            **options,
        ).create_engine_config()
        engine.cache_config.num_gpu_blocks = 100
        block = engine.cache_config.block_size
        cache = FullAttentionSpec(block_size=block, num_kv_heads=1, head_size=8, dtype=torch.float32)
        caches = KVCacheConfig(100, [], [KVCacheGroupSpec(["layer"], cache)])
        engine.scheduler_config.async_scheduling = asynchronous
        assert (engine.use_v2_model_runner, engine.max_concurrent_batches) == (False, STAGES)
        one = kind(engine, caches, StructuredOutputManager(engine), block_size=block)
        for number, tokens in enumerate(prompts):
            prompt = [number + 1] * tokens
            one.add_request(Request(f"{number}", prompt, SamplingParams(max_tokens=20), None))
        return one

    return build


@pytest.fixture
def scheduled(scheduler):
    """Requests in each batch that is scheduled before the first has come back from the last stage."""

    def batches(kind: type[Scheduler], *, asynchronous: bool) -> list[int]:
        one = scheduler(kind, [3] * REQUESTS, asynchronous=asynchronous)
        return [len(one.schedule().num_scheduled_tokens) for _ in range(STAGES)]

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


@pytest.mark.parametrize("share", [None, SHARE])
def test_prompts_share_steps_as_the_decision_core_takes_it(scheduler, share):
    """Batches before the first has come back: prompts alone, whose chunks follow each other."""
    prompts = [100, 10, 60, 90]
    one = scheduler(
        Scheduler,
        prompts,
        asynchronous=False,
        max_num_batched_tokens=BUDGET,
        max_num_seqs=8,
        long_prefill_token_threshold=share or 0,
    )
    line = PromptLine(share)
    marks = [line.add(tokens) for tokens in prompts]
    left = dict(enumerate(prompts))
    for _ in range(STAGES):
        line.begin(BUDGET)
        given = one.schedule().num_scheduled_tokens
        assert sum(given.values()) == line.chunk
        line.end()
        for name, tokens in given.items():
            left[int(name)] -= tokens
        assert [line.computed(mark) for mark in marks] == [tokens == 0 for tokens in left.values()]
