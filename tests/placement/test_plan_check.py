"""The static check that a build of the application makes."""

import pytest

from app.config import ApplicationConfig
from app.plan_check import plan_of, refusals_of
from placement.hardware import parse_cluster


def config(**engine):
    return ApplicationConfig.model_validate(
        {
            "model": {"name": "llama", "source": "meta-llama/Llama-3.3-70B-Instruct"},
            "parallel": {
                "pipeline_parallel_size": 4,
                "tensor_parallel_size": 2,
                "bundles": [{"CPU": 1, "GPU": 1}] * 8,
            },
            "engine": {"max_model_len": 8192, **engine},
            "open_without_keys": True,
        }
    )


def test_the_configured_grid_reaches_the_planner_unchanged():
    plan = plan_of(config(max_num_batched_tokens=512, kv_cache_dtype="fp8_e4m3"))
    assert (plan.tensor_parallel, plan.pipeline_parallel, plan.kv_dtype) == (2, 4, "fp8")
    assert plan.max_batched_tokens == 512


def test_a_possible_plan_is_not_refused():
    assert refusals_of(config(), parse_cluster("8xh100")) == ()


@pytest.mark.parametrize(
    ("hardware", "reason"),
    [("4xh100", "needs 8 GPUs"), ("8xgeneric", "memory"), ("8x1xh100", "leave a node")],
)
def test_hardware_that_cannot_hold_the_plan_is_named(hardware, reason):
    (refusal,) = refusals_of(config(), parse_cluster(hardware))
    assert reason in refusal


def test_fp8_weights_on_a_gpu_without_fp8_are_refused():
    (refusal,) = refusals_of(config(quantization="fp8"), parse_cluster("8xa100"))
    assert "no FP8" in refusal
