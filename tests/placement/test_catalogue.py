"""The catalogue against the models' published parameter counts."""

import json
import re

import pytest

from placement.models import ALIASES, CATALOGUE, find_model, from_hugging_face, known_model
from placement.shapes import known_shape
from tests.checkpoints import LLAMA_8B


@pytest.mark.parametrize(
    ("name", "parameters", "kv_bytes"),
    [
        ("llama70b", 70_553_706_496, 327_680),
        ("llama8b", 8_030_261_248, 131_072),
        ("llama405b", 405_853_388_800, 516_096),
        ("qwen72b", 72_706_203_648, 327_680),
        ("mixtral", 46_702_792_704, 131_072),
        ("llama2-70b", 68_976_648_192, 327_680),
    ],
)
def test_parameters_and_kv_bytes_are_those_of_the_checkpoint(name, parameters, kv_bytes):
    model = find_model(name)
    assert model.parameters == parameters
    assert model.kv_bytes_per_token("auto") == kv_bytes
    assert model.kv_bytes_per_token("fp8") == kv_bytes // 2


def test_every_alias_names_a_catalogued_model():
    assert set(ALIASES.values()) <= set(CATALOGUE)


def test_a_config_json_by_path_gives_the_same_model_as_the_catalogue(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    assert find_model(str(tmp_path)).parameters == find_model("llama8b").parameters


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt"),
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({}, "unknown"),
        (None, "bfloat16"),
    ],
)
def test_a_config_json_says_what_its_weights_are_stored_in(quantization, dtype):
    config = {**LLAMA_8B, "quantization_config": quantization}
    assert from_hugging_face(config, "x").weight_dtype == dtype


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("model_type", name)
            for name in ("jamba", "starcoder2", "gemma2", "deepseek_v3", "qwen2_moe", None)
        ),
        ("decoder_sparse_step", 2),
        ("mlp_only_layers", [0, 1]),
    ],
)
def test_an_architecture_with_other_sums_is_refused(tmp_path, field, value):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_8B, field: value}))
    with pytest.raises(ValueError, match=re.escape(f"{field}: {value!r}: this architecture is not modelled")):
        find_model(str(tmp_path))
    assert known_model(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("kind", "window", "used", "described"),
    [
        ("mistral", 4096, None, False),
        ("mistral", None, None, True),
        ("qwen2", 131072, None, True),
        ("qwen2", 131072, False, True),
        ("qwen2", 131072, True, False),
    ],
)
def test_attention_that_sees_a_window_is_refused(kind, window, used, described):
    config = {**LLAMA_8B, "model_type": kind, "sliding_window": window}
    if used is not None:
        config["use_sliding_window"] = used
    if described:
        assert from_hugging_face(config, "x").layers == 32
    else:
        with pytest.raises(ValueError, match=f"x: sliding_window: {window}: this architecture"):
            from_hugging_face(config, "x")


def test_an_alias_is_the_command_lines_and_no_source_of_a_configuration():
    assert find_model("llama70b").layers == 80
    assert known_model("llama70b") is None


def test_a_config_json_that_holds_a_list_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no object"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "hf_quant_config.json"])
def test_a_file_that_is_no_json_is_named(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    (tmp_path / name).write_text('{"model_type": ')
    with pytest.raises(ValueError, match=f"^model: {re.escape(str(tmp_path))}: its {name} is no JSON"):
        known_model(str(tmp_path))


FP8_CACHE = {"dynamic": False, "num_bits": 8, "type": "float"}


@pytest.mark.parametrize(
    ("quantization", "cache"),
    [
        (None, "bfloat16"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "bfloat16"),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": FP8_CACHE}, "fp8"),
        ({"quant_method": "modelopt", "kv_cache_scheme": FP8_CACHE | {"dynamic": True}}, "bfloat16"),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "modelopt_fp4", "kv_cache_quant_algo": "NVFP4"}, "bfloat16"),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": FP8_CACHE}, "fp8"),
        ({"quant_method": "fp8", "kv_cache_scheme": FP8_CACHE}, "bfloat16"),
    ],
)
def test_a_config_json_says_what_its_cache_is_stored_in(quantization, cache):
    assert from_hugging_face({**LLAMA_8B, "quantization_config": quantization}, "x").kv_dtype == cache


@pytest.mark.parametrize(
    ("algorithm", "cache", "stored"),
    [
        ("FP8", "FP8", ("fp8", "fp8")),
        ("FP8_PB_WO", None, ("fp8", "bfloat16")),
        ("NVFP4", "FP8", ("modelopt", "fp8")),
    ],
)
def test_an_older_modelopt_checkpoint_says_it_in_a_file_of_its_own(tmp_path, algorithm, cache, stored):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    quantization = {"quant_algo": algorithm, "kv_cache_quant_algo": cache}
    separate = {"producer": {"name": "modelopt", "version": "0.29.0"}, "quantization": quantization}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(separate))
    model = find_model(str(tmp_path))
    assert (model.weight_dtype, model.kv_dtype) == stored
    # What config.json says itself counts.
    (tmp_path / "config.json").write_text(
        json.dumps({**LLAMA_8B, "quantization_config": {"quant_method": "awq"}})
    )
    assert find_model(str(tmp_path)).weight_dtype == "awq"


@pytest.mark.parametrize("value", [None, 0, -1, "32", True, 1.5])
def test_a_broken_config_json_is_refused_with_the_field_and_the_value(value):
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": value}
    with pytest.raises(ValueError, match="num_attention_heads"):
        from_hugging_face(config, "broken")


def test_an_unknown_model_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="llama70b"):
        find_model("no/such-model")


def test_the_configuration_sees_the_same_shape_as_the_planner():
    shape = known_shape("meta-llama/Llama-3.3-70B-Instruct")
    assert shape is not None
    assert (shape.layers, shape.heads, shape.kv_heads, shape.ffn) == (80, 64, 8, 28672)
    assert known_shape("no/such-model") is None


@pytest.mark.parametrize(
    ("positions", "context"),
    [
        ({}, 40960),
        ({"rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 40960),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, None),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, None),
    ],
)
def test_what_stretches_the_positions_leaves_the_context_to_the_engine(positions, context):
    published = {
        "model_type": "qwen3",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 256,
        "max_position_embeddings": 40960,
    }
    assert from_hugging_face(published | positions, "some").context == context
