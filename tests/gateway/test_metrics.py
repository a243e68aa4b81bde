"""The engines' metrics as one page."""

from __future__ import annotations

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.contract import EnginePort
from app.gateway.metrics import engine_metrics, merged
from tests.fakes import FakeEngine, dead_port


def engine_text(tokens: float) -> str:
    return f"""\
# HELP vllm:generation_tokens_total Number of generation tokens.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{engine="0",model_name="tiny"}} {tokens}
# HELP vllm:ttft_seconds Time to first token.
# TYPE vllm:ttft_seconds histogram
vllm:ttft_seconds_bucket{{le="1.0"}} 2.0
vllm:ttft_seconds_bucket{{le="+Inf"}} 3.0
vllm:ttft_seconds_count 3.0
vllm:ttft_seconds_sum 4.5
# HELP promiseserve_gpus GPUs that are measured.
# TYPE promiseserve_gpus gauge
promiseserve_gpus 8.0
# HELP python_gc_objects_collected_total Objects collected.
# TYPE python_gc_objects_collected_total counter
python_gc_objects_collected_total 9.0
"""


def families(text: str) -> dict:
    found = list(text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found)
    return {family.name: family for family in found}


def test_two_replicas_share_one_family_and_each_sample_names_its_own():
    page = families(merged({"a": engine_text(10), "b": engine_text(32)}))
    tokens = page["vllm:generation_tokens"]
    assert (tokens.type, tokens.documentation) == ("counter", "Number of generation tokens.")
    assert {sample.labels["replica"]: sample.value for sample in tokens.samples} == {"a": 10, "b": 32}
    assert all(sample.labels["model_name"] == "tiny" for sample in tokens.samples)


def test_a_histogram_keeps_its_buckets_for_each_replica():
    samples = families(merged({"a": engine_text(1), "b": engine_text(1)}))["vllm:ttft_seconds"].samples
    assert {(s.labels["replica"], s.labels.get("le"), s.value) for s in samples if "bucket" in s.name} == {
        (replica, le, value) for replica in "ab" for le, value in [("1.0", 2), ("+Inf", 3)]
    }


def test_only_the_engines_own_figures_are_passed_on():
    assert 'promiseserve_gpus{replica="a"} 8.0' in merged({"a": engine_text(1)})
    assert "python_gc" not in merged({"a": engine_text(1)})
    assert merged({}) == ""


async def test_engines_are_asked_with_their_secrets_and_those_that_do_not_answer_are_left_out():
    async with (
        FakeEngine.started("a") as one,
        FakeEngine.started("b") as other,
        FakeEngine.started("c") as wrong,
        aiohttp.ClientSession() as http,
    ):
        one.metrics, other.metrics = engine_text(1), engine_text(2)
        stranger = EnginePort("c", wrong.port.host, wrong.port.port, "another secret")
        page = families(await engine_metrics(http, [one.port, dead_port(), other.port, stranger]))
    values = {s.labels["replica"]: s.value for s in page["vllm:generation_tokens"].samples}
    assert values == {"a": 1, "b": 2}


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_a_replica_without_figures_adds_nothing(text):
    assert merged({"a": text}) == ""
