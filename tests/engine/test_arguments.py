"""What vLLM is told, for each configuration that is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.config import ApplicationConfig
from app.config_file import load_applications
from app.engine.arguments import QUEUE_BACKSTOP_FACTOR, environment, uses_ray_workers, vllm_arguments

CONFIGS = Path(__file__).parents[2] / "serve_configs"
NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


def load(name: str) -> ApplicationConfig:
    return load_applications(CONFIGS / name)[0].args


def arguments(config: ApplicationConfig) -> dict[str, str | None]:
    """Values by option; None for a flag."""
    options = (argument.partition("=") for argument in vllm_arguments(config, "/models/it"))
    return {name: value if equals else None for name, equals, value in options}


def compilation(config: ApplicationConfig) -> dict:
    return json.loads(arguments(config)["--compilation-config"])


def changed(name: str, **sections: dict) -> ApplicationConfig:
    content = load(name).model_dump()
    for section, values in sections.items():
        content[section].update(values)
    return ApplicationConfig.model_validate(content)


def test_the_shipped_configurations_are_the_ones_tested_here():
    assert NAMES == ["llama70b.yaml", "smollm2-cpu.yaml", "topology-cpu.yaml"]


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_serves_its_model_by_priority_in_chunks_and_token_by_token(name):
    config = load(name)
    given = arguments(config)
    assert given["--model"] == "/models/it"
    assert given["--served-model-name"] == config.model.name
    assert given["--scheduling-policy"] == "priority"
    assert given["--stream-interval"] == "1"
    assert given["--max-model-len"] == str(config.engine.max_model_len)
    assert given["--max-num-seqs"] == str(config.engine.max_num_seqs)
    assert given["--max-num-batched-tokens"] == str(config.engine.max_num_batched_tokens)
    share = config.engine.long_prefill_token_threshold
    assert given.get("--long-prefill-token-threshold") == (None if share is None else str(share))
    assert {"--enable-chunked-prefill", "--enable-prefix-caching"} <= given.keys()
    assert "--enable-prompt-tokens-details" in given
    assert "--quantization" not in given
    assert json.loads(given["--structured-outputs-config"]) == {"backend": "xgrammar"}


def test_an_answer_without_a_bound_of_its_own_has_that_of_the_limits():
    limited = arguments(changed("smollm2-cpu.yaml", limits={"max_output_tokens": 100}))
    assert json.loads(limited["--override-generation-config"]) == {"max_new_tokens": 100}
    assert "--override-generation-config" not in arguments(load("smollm2-cpu.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_the_engines_own_queue_is_longer_than_all_its_leases(name):
    config = load(name)
    longest = int(arguments(config)["--max-num-queued-reqs"])
    # vLLM counts answers and inputs: every lease may have as many as a request may.
    for answers in (config.limits.max_choices, config.limits.max_embedding_inputs):
        assert longest >= config.requests_per_replica() * answers * QUEUE_BACKSTOP_FACTOR


@pytest.mark.parametrize("name", NAMES)
def test_every_engine_keeps_to_itself_and_dies_with_its_replica(name):
    given = environment(load(name))
    assert given["VLLM_NO_USAGE_STATS"] == "1"
    assert given["PROMISESERVE_ENGINE"] == "1"
    assert {"--disable-fastapi-docs", "--disable-uvicorn-access-log"} <= arguments(load(name)).keys()


def test_llama_70b_is_a_grid_of_ray_workers_with_each_rank_in_its_own_bundle():
    config = load("llama70b.yaml")
    given, variables = arguments(config), environment(config)
    assert uses_ray_workers(config)
    assert given["--pipeline-parallel-size"] == "4"
    assert given["--tensor-parallel-size"] == "2"
    assert given["--distributed-executor-backend"] == "ray"
    assert given["--gpu-memory-utilization"] == "0.83"
    assert (given["--dtype"], given["--kv-cache-dtype"]) == ("bfloat16", "fp8")
    # What it compiles is kept for the next start.
    assert "VLLM_USE_AOT_COMPILE" not in variables
    assert variables["VLLM_RAY_BUNDLE_INDICES"] == "0,1,2,3,4,5,6,7"
    assert variables["VLLM_USE_RAY_V2_EXECUTOR_BACKEND"] == "1"
    assert variables["VLLM_PP_LAYER_PARTITION"] == "20,20,20,20"


def test_llama_70b_splits_the_tokens_of_a_full_chunk_and_of_no_smaller_step():
    config = load("llama70b.yaml")
    passes = compilation(config)
    assert passes["pass_config"] == {"enable_sp": True, "sp_min_token_num": 2048}
    assert passes["mode"] == 3
    assert passes["use_inductor_graph_partition"] is True
    assert passes["custom_ops"] == ["+rms_norm"]
    assert config.engine.max_num_batched_tokens == 2048


def test_a_gpu_engine_gets_nothing_that_is_meant_for_a_cpu():
    variables = environment(load("llama70b.yaml"))
    assert not {name for name in variables if "CPU" in name or "OMP" in name}


def test_smollm2_is_one_process_of_its_replica():
    config = load("smollm2-cpu.yaml")
    given, variables = arguments(config), environment(config)
    assert not uses_ray_workers(config)
    assert (given["--pipeline-parallel-size"], given["--tensor-parallel-size"]) == ("1", "1")
    # In the engine core's own process, which vLLM allows on a CPU with this variable only.
    assert given["--distributed-executor-backend"] == "uni"
    assert variables["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    # smollm2-cpu.yaml does not compile.
    assert variables["VLLM_USE_AOT_COMPILE"] == "0"
    assert given["--dtype"] == "bfloat16"
    assert compilation(config) == {"mode": 2, "backend": "eager"}
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert not {name for name in variables if "RAY" in name or "PP" in name or name == "OMP_NUM_THREADS"}


def test_the_topology_on_a_cpu_takes_the_way_of_the_gpus_with_one_thread_a_worker():
    config = load("topology-cpu.yaml")
    given, variables = arguments(config), environment(config)
    assert given["--distributed-executor-backend"] == "ray"
    assert variables["VLLM_RAY_BUNDLE_INDICES"] == "0,1,2,3,4,5,6,7"
    assert variables["VLLM_PP_LAYER_PARTITION"] == "2,2,2,2"
    assert variables["PROMISESERVE_CPU"] == "1"
    assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert variables["OMP_NUM_THREADS"] == "1"
    assert compilation(config) == {"mode": 2, "backend": "eager"}


def test_without_sequence_parallelism_full_compilation_is_vllms_default():
    assert compilation(changed("llama70b.yaml", parallel={"sequence_parallelism": {"enabled": False}})) == {}


def test_without_a_partition_vllm_splits_the_layers():
    assert "VLLM_PP_LAYER_PARTITION" not in environment(
        changed("topology-cpu.yaml", parallel={"layer_partition": None})
    )


def test_tools_and_thoughts_are_parsed_where_it_is_said_how():
    plain = arguments(load("llama70b.yaml"))
    assert not {"--enable-auto-tool-choice", "--tool-call-parser", "--reasoning-parser"} & plain.keys()
    engine = {"tool_call_parser": "llama3_json", "reasoning_parser": "deepseek_r1"}
    given = arguments(changed("llama70b.yaml", engine=engine))
    assert "--enable-auto-tool-choice" in given
    assert (given["--tool-call-parser"], given["--reasoning-parser"]) == ("llama3_json", "deepseek_r1")


def test_quantization_and_the_prefix_cache_follow_the_configuration():
    engine = {"quantization": "fp8", "enable_prefix_caching": False, "seed": 7}
    given = arguments(changed("llama70b.yaml", engine=engine))
    assert (given["--quantization"], given["--seed"]) == ("fp8", "7")
    assert "--no-enable-prefix-caching" in given
    assert "--enable-prefix-caching" not in given
