"""The static check that a build of the application makes."""

import json
from pathlib import Path

import pytest

from app.config import ApplicationConfig
from app.config_file import load_applications
from app.plan_check import control_room, memory_promises_of, model_of, plan_of, refusal_of
from placement.hardware import find_gpu, parse_cluster
from placement.memory import plan_memory
from tests.checkpoints import LLAMA_8B

LLAMA_70B = "meta-llama/Llama-3.3-70B-Instruct"


SECTIONS = ("gateway", "promises", "scheduler")


def config(*, tensor=2, stages=4, source=LLAMA_70B, parallel=None, tokens=8192, **engine):
    sections = {name: engine.pop(name) for name in SECTIONS if name in engine}
    return ApplicationConfig.model_validate(
        {
            "model": {"name": "llama", "source": source},
            "parallel": {
                "pipeline_parallel_size": stages,
                "tensor_parallel_size": tensor,
                "bundles": [{"CPU": 1, "GPU": 1}] * tensor * stages,
                **(parallel or {}),
            },
            "engine": {"max_model_len": tokens, **engine},
            "open_without_keys": True,
            **sections,
        }
    )


def refusal(hardware, **settings):
    return refusal_of(config(**settings), parse_cluster(hardware))


def test_the_configured_grid_reaches_the_planner_unchanged():
    plan = plan_of(
        config(max_num_batched_tokens=512, long_prefill_token_threshold=128, kv_cache_dtype="fp8_e4m3")
    )
    assert (plan.tensor_parallel, plan.pipeline_parallel, plan.kv_dtype) == (2, 4, "fp8")
    assert (plan.max_batched_tokens, plan.prompt_step_tokens, plan.one_node) == (512, 128, True)


def test_the_layers_of_the_shipped_70b_are_predicted_to_keep_its_promise_of_balanced_memory():
    (application,) = load_applications(Path("serve_configs/llama70b.yaml"))
    config = application.args
    memory = plan_memory(model_of(config), find_gpu("h100"), plan_of(config))
    assert memory.imbalance < config.promises.memory_imbalance == 0.05


def test_a_possible_plan_is_not_refused():
    assert refusal("8xh100") is None


@pytest.mark.parametrize(
    ("hardware", "reason"),
    [("4xh100", "needs 8 GPUs"), ("8xgeneric", "memory"), ("8x1xh100", "leave a node")],
)
def test_hardware_that_cannot_hold_the_plan_is_named(hardware, reason):
    assert reason in refusal(hardware)


def test_a_grid_that_is_to_share_a_node_does_not_spread_over_two():
    assert "STRICT_PACK: 8 GPUs on one node" in refusal("2x4xh100")
    assert refusal("2x4xh100", parallel={"strategy": "PACK"}) is None


def test_of_a_model_that_nobody_knows_it_says_whether_the_cluster_has_the_room():
    assert "needs 8 GPUs" in refusal("4xh100", source="somebody/some-model")
    assert refusal("8xh100", source="somebody/some-model") is None


def test_a_window_beyond_the_models_own_context_is_refused_as_the_engine_would():
    source = "meta-llama/Meta-Llama-3-70B-Instruct"
    assert "context is 8192" in refusal("8xh100", source=source, tokens=16384)
    assert refusal("8xh100", source=LLAMA_70B, tokens=16384) is None


class TestWhatWeightsAreStoredIn:
    def test_a_checkpoint_says_so_itself(self):
        source = "nvidia/Llama-3.1-70B-Instruct-FP8"
        for quantization in (None, "modelopt"):
            settings = {"tensor": 2, "stages": 1, "source": source, "quantization": quantization}
            assert plan_of(config(**settings)).weight_dtype == "fp8"
            assert refusal("2xh100", **settings) is None
        assert "memory" in refusal("2xh100", tensor=2, stages=1)

    def test_float32_takes_twice_as_much(self):
        settings = {"tensor": 4, "stages": 1, "dtype": "float32"}
        plan = plan_of(config(**settings))
        assert (plan.weight_dtype, plan.kv_dtype) == ("float32", "float32")
        assert "memory" in refusal("4xh100", **settings)
        assert refusal("4xh100", tensor=4, stages=1) is None

    def test_an_automatic_cache_is_what_the_checkpoint_says(self, tmp_path):
        quantization = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
        (tmp_path / "config.json").write_text(json.dumps({**LLAMA_8B, "quantization_config": quantization}))
        kinds = {
            asked: plan_of(config(source=str(tmp_path), kv_cache_dtype=asked)).kv_dtype
            for asked in ("auto", "bfloat16", "fp8_e5m2")
        }
        assert kinds == {"auto": "fp8", "bfloat16": "bfloat16", "fp8_e5m2": "fp8"}

    def test_of_a_format_without_a_known_size_only_the_room_is_checked(self):
        assert refusal("1xh100", tensor=1, stages=1, quantization="awq") is None
        assert "needs 8 GPUs" in refusal("4xh100", quantization="awq")

    def test_fp8_weights_run_on_a_gpu_without_fp8_cores(self):
        # vLLM's Fp8Config: compute capability 7.5, weights only.
        assert refusal("8xa100", quantization="fp8") is None


class TestFolder:
    def folder(self, tmp_path, **fields):
        (tmp_path / "config.json").write_text(json.dumps({**LLAMA_8B, **fields}))
        return str(tmp_path)

    def test_a_partition_that_leaves_layers_out_is_refused(self, tmp_path):
        source = self.folder(tmp_path)
        parallel = {"layer_partition": [4, 4, 4, 4]}
        assert "sums to 16, but the model has 32 layers" in refusal(
            "8xh100", source=source, parallel=parallel
        )
        assert refusal("8xh100", source=source) is None

    def test_more_stages_than_layers_are_refused(self, tmp_path):
        source = self.folder(tmp_path, num_hidden_layers=2)
        assert "pipeline_parallel_size 4: the model has 2 layers: a stage would be empty" in refusal(
            "8xh100", source=source
        )

    def test_its_own_context_counts_unless_its_positions_are_stretched(self, tmp_path):
        source = self.folder(tmp_path, max_position_embeddings=4096)
        assert "context is 4096" in refusal("8xh100", source=source)
        source = self.folder(tmp_path, max_position_embeddings=4096, rope_scaling={"factor": 8.0})
        assert refusal("8xh100", source=source) is None

    def test_of_an_architecture_without_a_model_only_the_room_is_checked(self, tmp_path):
        source = self.folder(tmp_path, model_type="gemma2", num_hidden_layers=2)
        assert refusal("8xh100", source=source) is None
        assert "needs 8 GPUs" in refusal("4xh100", source=source)


def test_gateways_and_schedulers_find_what_they_ask_for_or_it_is_said():
    asks = config().model_copy(update={"control_resources": {"control": 0.4}})
    assert control_room(config(), [{"GPU": 8.0}]).missing == ""
    # Two fit into a node that has 1.0.
    replicas = asks.gateway.replicas + 1 + asks.scheduler.spares
    assert control_room(asks, [{"control": 1.0}] * ((replicas + 1) // 2)).missing == ""
    assert control_room(asks, [{"control": 1.0}]).missing == (
        f"gateways and schedulers: {replicas} ask for 0.4 control, there is room for 2"
    )


def test_tenths_of_a_resource_add_up_and_each_process_needs_all_of_its_own_on_one_node():
    def asking(**resources):
        return config(gateway={"replicas": 4}).model_copy(update={"control_resources": resources})

    # Six processes.
    assert control_room(asking(control=0.1), [{"control": 0.6}]).missing == ""
    nodes = [{"control": 6.0, "edge": 0.0}, {"control": 0.0, "edge": 6.0}]
    assert control_room(asking(control=1.0, edge=1.0), nodes).missing.endswith(
        "6 ask for 1 control, 1 edge, there is room for 0"
    )
    both = [{"control": 6.0, "edge": 7.0}]
    assert control_room(asking(control=1.0, edge=1.0), both).left == ({"control": 0.0, "edge": 1.0},)


def test_what_the_scheduler_lets_into_an_engine_bounds_what_runs_in_it():
    plan = plan_of(config(max_num_seqs=256, scheduler={"requests_per_replica": 16}))
    assert (plan.max_running, plan.most_at_once) == (256, 16)
    assert plan_of(config(max_num_seqs=8, scheduler={"requests_per_replica": 16})).most_at_once == 8
    assert plan_of(config(max_num_seqs=8)).most_at_once == 8


def test_the_promises_of_memory_are_those_that_validate_judges():
    promised = memory_promises_of(config(max_num_seqs=4, tokens=2048, promises={"memory_share": 0.7}))
    assert (promised.kv_tokens, promised.share, promised.imbalance) == (8192, 0.7, 0.05)
