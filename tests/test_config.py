"""The shipped configurations are possible; impossible ones are refused with field, value and reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from app.config import ApplicationConfig
from app.config_file import ConfigFileError, load_applications, load_file, problem_lines
from placement.commands.show import plan_of

HASH = "0123456789abcdef" * 4
FILES = sorted((Path(__file__).parents[1] / "serve_configs").glob("*.yaml"))


def minimal(**sections: dict[str, Any]) -> dict[str, Any]:
    """One process of the tiny model on a CPU, open; sections are merged over it."""
    base: dict[str, Any] = {
        "open_without_keys": True,
        "model": {"name": "tiny", "source": "embedded:tiny-llama"},
        "engine": {"device": "cpu", "max_model_len": 128},
    }
    return base | {name: base.get(name, {}) | section for name, section in sections.items()}


def refusals(arguments: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        ApplicationConfig.model_validate(arguments)
    return problem_lines(refused.value)


def gpu_parallel(pp: int, tp: int, **fields: Any) -> dict[str, Any]:
    bundles = [{"GPU": 1}] * (pp * tp)
    return {"pipeline_parallel_size": pp, "tensor_parallel_size": tp, "bundles": bundles, **fields}


def only(name: str) -> ApplicationConfig:
    (application,) = load_applications(next(file for file in FILES if file.name == name))
    return application.args


# Promises


def test_promises_that_no_request_can_be_measured_by_are_refused_where_they_are_stated():
    stated = minimal(promises={"prompt_tokens": 100, "output_tokens": 64})
    reason = "with output_tokens 164 tokens, and engine.max_model_len is 128"
    assert refusals(stated) == [f"promises.prompt_tokens: 100: {reason}"]
    # The defaults are another model's: they refuse no application that states none.
    assert list(ApplicationConfig.model_validate(minimal()).promise_problems()) != []


def test_the_cache_is_promised_to_hold_every_place_at_a_full_window_unless_it_says_less():
    config = ApplicationConfig.model_validate(minimal(scheduler={"requests_per_replica": 3}))
    assert config.promised_kv_tokens() == 3 * 128
    less = minimal(promises={"kv_tokens": 99, "prompt_tokens": 8, "output_tokens": 8})
    assert ApplicationConfig.model_validate(less).promised_kv_tokens() == 99


# The shipped files


def test_the_three_configurations_are_shipped():
    assert {"llama70b.yaml", "smollm2-cpu.yaml", "topology-cpu.yaml"} <= {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_is_planned_with_one_bundle_a_rank_and_every_layer_once(file):
    for application in load_applications(file):
        ranks = plan_of(application).ranks()
        assert len(ranks) == len(application.args.parallel.bundles)
        shape = application.args.model.known_shape()
        assert shape is not None
        held = [
            layer for r in ranks if r.tensor_rank == 0 for layer in range(r.first_layer, r.last_layer + 1)
        ]
        assert held == list(range(shape.layers))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_is_valid_for_serve_and_listens_on_loopback_only(file):
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
    assert schema.proxy_location == "HeadOnly"
    assert (schema.http_options.host, schema.http_options.port) == ("127.0.0.1", 8000)
    (application,) = schema.applications
    assert (application.name, application.route_prefix) == ("llm", "/")
    assert application.import_path == "app.serving.application:build"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_file_repeats_a_key(file):
    class UniqueKeys(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            assert len(keys) == len(set(keys)), keys
            return super().construct_mapping(node, deep)

    yaml.load(file.read_text(), UniqueKeys)


def test_llama_70b_is_the_plan_that_was_asked_for():
    config = only("llama70b.yaml")
    assert (config.parallel.topology().ranks, config.parallel.strategy) == (8, "STRICT_PACK")
    assert config.parallel.sequence_parallelism.enabled
    assert config.parallel.sequence_parallelism.min_tokens == config.engine.max_num_batched_tokens == 2048
    assert (config.engine.dtype, config.engine.kv_cache_dtype) == ("bfloat16", "fp8")
    assert config.engine.gpu_memory_utilization < config.promises.memory_share == 0.85
    assert config.requests_per_replica() == 256 == 64 * config.parallel.pipeline_parallel_size


def test_the_topology_file_fits_a_machine_of_two_cores_and_eight_logical_gpus():
    bundles = only("topology-cpu.yaml").parallel.bundles
    assert sum(bundle.get("CPU", 0) for bundle in bundles) <= 1
    assert sum(bundle["GPU"] for bundle in bundles) == 8


def test_the_cache_of_smollm2_holds_all_running_requests_at_full_length():
    engine = only("smollm2-cpu.yaml").engine
    bytes_a_token = 30 * 2 * 3 * 64 * 2
    assert engine.max_num_seqs * engine.max_model_len * bytes_a_token < engine.cpu_kv_cache_gib * 2**30


# What is refused


def test_the_minimal_configuration_is_accepted():
    config = ApplicationConfig.model_validate(minimal())
    assert config.requests_per_replica() == config.engine.max_num_seqs


def test_the_limit_of_leases_can_be_stated():
    config = ApplicationConfig.model_validate(minimal(scheduler={"requests_per_replica": 7}))
    assert config.requests_per_replica() == 7


def test_a_stated_shape_is_checked_for_a_model_outside_the_catalogue():
    model = {"source": "some/model", "shape": {"layers": 3, "heads": 3, "kv_heads": 1}}
    assert refusals(minimal(model=model, parallel=gpu_parallel(4, 1))) == [
        "parallel.pipeline_parallel_size: 4: the model has 3 layers: a stage would be empty"
    ]


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"model": {"naem": "x"}}, "model.naem: 'x': Extra inputs are not permitted"),
    ({"engin": {}}, "engin: {}: Extra inputs are not permitted"),
    ({"engine": {"device": "tpu"}}, "engine.device: 'tpu': Input should be 'cpu' or 'gpu'"),
    (
        {"engine": {"gpu_memory_utilization": 1.0}},
        "engine.gpu_memory_utilization: 1.0: Input should be less than or equal to 0.95",
    ),
    (
        {"engine": {"device": "gpu"}},
        "parallel.bundles.0.GPU: 0: a rank drives exactly one GPU of its own",
    ),
    (
        {"engine": {"max_num_seqs": 64, "max_num_batched_tokens": 32}},
        "engine.max_num_batched_tokens: 32: below max_num_seqs (64): "
        "each running request takes a token of a step",
    ),
    (
        {"engine": {"max_num_batched_tokens": 512, "long_prefill_token_threshold": 513}},
        "engine.long_prefill_token_threshold: 513: no prompt gets so much of a step: "
        "max_num_batched_tokens is 512, max_model_len 128",
    ),
    (
        {"flow": {"tenants": {"blue": {"requests_per_minute": 0}}}},
        "flow: {'tenants': {'blue': {'requests_per_minute': 0}}}: "
        "Value error, tenants['blue'].requests_per_minute: 0 must be above 0",
    ),
    (
        {"engine": {"tool_call_parser": "Llama 3"}},
        "engine.tool_call_parser: 'Llama 3': String should match pattern '^[a-z0-9_]+$'",
    ),
    (
        {"engine": {"kv_cache_dtype": "bfloat16"}},
        "engine.kv_cache_dtype: 'bfloat16': "
        "vLLM's CPU attention stores `auto` (the model's own) or an fp8 kind",
    ),
    (
        {"parallel": {"pipeline_parallel_size": 2}},
        "parallel.bundles: '1 bundles': PP=2 x TP=1 needs 2: one bundle holds one rank",
    ),
    (
        {"parallel": gpu_parallel(1, 3)},
        "parallel.tensor_parallel_size: 3: it neither divides the model's 4 KV heads nor is a "
        "multiple of them",
    ),
    (
        {"parallel": gpu_parallel(1, 3)},
        "parallel.tensor_parallel_size: 3: it does not divide the model's 8 attention heads",
    ),
    (
        {"parallel": gpu_parallel(9, 1)},
        "parallel.pipeline_parallel_size: 9: the model has 8 layers: a stage would be empty",
    ),
    (
        {"parallel": gpu_parallel(2, 1, layer_partition=[4, 5])},
        "parallel.layer_partition: [4, 5]: it sums to 9, but the model has 8 layers",
    ),
    (
        {"parallel": {"bundles": [{"CPU": -1}]}},
        "parallel.bundles.0.CPU: -1: Input should be greater than or equal to 0.0001",
    ),
    (
        {"parallel": {"bundles": [{"CPU": 0.00009}]}},
        "parallel.bundles.0.CPU: 9e-05: Input should be greater than or equal to 0.0001",
    ),
    (
        {"control_resources": {"control": 0.00009}},
        "control_resources.control: 9e-05: Input should be greater than or equal to 0.0001",
    ),
    *(
        (
            {"control_resources": {name: 1}},
            f"control_resources.{name}: 1.0: one of Ray's own: name a resource that nodes were started with",
        )
        for name in ("CPU", "GPU", "memory", "object_store_memory", "bundle")
    ),
    (
        {"parallel": {"bundles": [{}]}},
        "parallel.bundles.0: {}: Dictionary should have at least 1 item after validation, not 0",
    ),
    (
        {"parallel": {"sequence_parallelism": {"enabled": True}}},
        "parallel.sequence_parallelism.enabled: True: "
        "it splits tokens over the tensor-parallel group, and tensor_parallel_size is 1",
    ),
    (
        {"parallel": gpu_parallel(1, 2, sequence_parallelism={"enabled": True})},
        "parallel.sequence_parallelism.enabled: True: vLLM has no such compilation pass on a CPU",
    ),
    (
        {
            "engine": {"device": "gpu", "compilation": "eager"},
            "parallel": gpu_parallel(1, 2, sequence_parallelism={"enabled": True}),
        },
        "parallel.sequence_parallelism.enabled: True: "
        "it is a compilation pass, and engine.compilation is 'eager'",
    ),
    (
        {
            "engine": {"device": "gpu", "max_num_batched_tokens": 1024},
            "parallel": gpu_parallel(1, 2, sequence_parallelism={"enabled": True, "min_tokens": 2048}),
        },
        "parallel.sequence_parallelism.min_tokens: 2048: "
        "no step is that large: engine.max_num_batched_tokens is 1024",
    ),
    ({"replicas": {"min": 2, "max": 1}}, "replicas.max: 1: below min (2)"),
    (
        {"api_keys": {"blue": [HASH], "red": [HASH]}},
        f"api_keys.red.0: '{HASH}': the key is 'blue''s already",
    ),
    (
        {"api_keys": {"blue": ["sk-plain"]}},
        "api_keys.blue.0: 'sk-plain': String should match pattern '^[0-9a-f]{64}$'",
    ),
    (
        {"api_keys": {"blue": [HASH]}, "flow": {"tenants": {"red": {"weight": 2}}}},
        "flow.tenants.red: 'red': has no key among api_keys",
    ),
    (
        {"api_keys": {"blue": [HASH]}, "status": {"tenants": ["blue", "red"]}},
        "status.tenants.1: 'red': has no key among api_keys",
    ),
    (
        {"api_keys": {"blue": [HASH]}, "status": {"open": True}},
        "status.open: True: there are api_keys: name the tenants whose keys open it in status.tenants",
    ),
    ({"flow": {"admision": {}}}, "flow.admision: {}: Unexpected keyword argument"),
    ({"flow": {"admission": {"enabled": "x"}}}, "flow.admission.enabled: 'x': Input should be a valid"),
    (
        {"scheduler": {"max_queued": 0}},
        "scheduler.max_queued: 0: Input should be greater than or equal to 1",
    ),
]


@pytest.mark.parametrize(("sections", "line"), REFUSALS, ids=[line.split(":")[0] for _, line in REFUSALS])
def test_what_cannot_work_is_refused_with_field_value_and_reason(sections, line):
    assert any(told.startswith(line) for told in refusals(minimal(**sections)))


def test_all_problems_of_a_plan_are_told_at_once():
    assert len(refusals(minimal(parallel=gpu_parallel(9, 3)))) == 4


def test_an_fp8_cache_is_accepted_on_a_cpu():
    assert ApplicationConfig.model_validate(minimal(engine={"kv_cache_dtype": "fp8"}))


# Files that can't be used


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "file: None: "),
        ("[1, 2", "not YAML: "),
        ("applications: []", "applications: []: List should have at least 1 item"),
        ("applications: [{name: llm}]", "applications.0.args: {'name': 'llm'}: Field required"),
    ],
)
def test_a_file_without_an_application_is_refused(tmp_path, content, line):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(ConfigFileError) as refused:
        load_applications(file)
    (told,) = refused.value.lines
    assert line in told
    assert str(refused.value) == told


def test_a_long_value_is_shown_by_its_beginning():
    (line,) = refusals(minimal(model={"name": ["x" * 1000]}))
    assert line.startswith("model.name: ['xxx")
    assert len(line) < 200


# Who is let in


def test_nobody_is_let_in_without_a_key_unless_that_is_said():
    (problem,) = refusals({**minimal(), "open_without_keys": False})
    assert problem.startswith("api_keys: {}: no keys: set api_keys, api_keys_file or api_keys_env")


@pytest.mark.parametrize(
    "keys",
    [{"api_keys": {"blue": [HASH]}}, {"api_keys_file": "/etc/keys"}, {"api_keys_env": "KEYS"}],
)
def test_any_source_of_keys_closes_the_door(keys):
    config = ApplicationConfig.model_validate({**minimal(), "open_without_keys": False, **keys})
    assert not config.is_open


@pytest.mark.parametrize("field", [{"api_keys_file": "keys"}, {"api_keys_env": "not a name"}])
def test_a_source_that_no_gateway_could_find_is_refused(field):
    (problem,) = refusals({**minimal(), **field})
    assert problem.startswith(next(iter(field)))


def serve_file(tmp_path: Path, host: str | None, **arguments: Any) -> Path:
    document = {"applications": [{"name": "llm", "args": {**minimal(), **arguments}}]}
    if host is not None:
        document["http_options"] = {"host": host}
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_without_keys_a_loopback_address_is_served(tmp_path, host):
    assert load_applications(serve_file(tmp_path, host))


@pytest.mark.parametrize(
    "host", [None, "0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", "0"]
)
def test_without_keys_no_other_address_is(tmp_path, host):
    with pytest.raises(ConfigFileError, match="without keys only on a loopback address") as refused:
        load_applications(serve_file(tmp_path, host))
    assert refused.value.lines[0].startswith("applications.0.args.open_without_keys: True")
    assert load_applications(serve_file(tmp_path, host, api_keys={"blue": [HASH]}))


@pytest.mark.parametrize(
    ("host", "prefix", "url"),
    [
        (None, "/", "http://127.0.0.1:8000"),
        ("10.1.2.3", "/b/", "http://10.1.2.3:8000/b"),
        ("::", "/a", "http://127.0.0.1:8000/a"),
        ("::1", "/a", "http://[::1]:8000/a"),
        ("::", None, None),
    ],
)
def test_a_client_on_this_machine_reaches_an_application_by_its_prefix(tmp_path, host, prefix, url):
    file = load_file(serve_file(tmp_path, host, api_keys={"blue": [HASH]}))
    application = file.applications[0].model_copy(update={"route_prefix": prefix})
    assert file.url(application) == url


def test_a_limit_that_does_not_exist_or_limits_nothing_is_refused():
    for limits in (
        {"max_bodies": 1},
        {"max_messages": 0},
        {"allowed_fields": ["nonsense"]},
        {"media_hosts": ["a/b"]},
    ):
        (problem,) = refusals(minimal(limits=limits))
        assert problem.startswith(f"limits.{next(iter(limits))}")
