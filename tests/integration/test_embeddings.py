"""A model that embeds: the path that generating models don't have, on a real engine."""

from __future__ import annotations

import json
import math
import shutil

import httpx
import openai
import pytest

from app.engine.models import prepare
from tests.integration.cluster import MODEL, Cluster, tiny_llama, wait_until

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def app(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The tiny Llama with what makes vLLM take a model for one of Sentence Transformers."""
    folder = tmp_path_factory.mktemp("embeds") / "model"
    shutil.copytree(prepare("embedded:tiny-llama"), folder)
    kind = "sentence_transformers.models."
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{kind}Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{kind}Normalize"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 256, "pooling_mode_lasttoken": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    sections = tiny_llama()
    sections["model"]["source"] = str(folder)
    cluster.deploy("smollm2-cpu.yaml", **sections)
    return cluster


def test_inputs_become_vectors_that_are_paid_for_and_leave_nothing(app: Cluster):
    client = openai.OpenAI(base_url=f"{app.url}/v1", api_key="unused", max_retries=0, timeout=120)
    texts = ["the gateway takes", "the gateway takes", "something else"]
    answer = client.embeddings.create(model=MODEL, input=texts)
    first, again, other = (one.embedding for one in answer.data)
    assert len(first) == len(other) == 256
    assert first == pytest.approx(again, abs=1e-3)
    assert math.dist(first, other) > 0.01
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(texts)
    wait_until(app.at_rest, 10, "at rest after the embeddings")
    assert app.metric("promiseserve_requests_ended_total", outcome="completed") == 1


def test_what_it_can_not_do_is_an_unknown_path(app: Cluster):
    body = {"model": MODEL, "prompt": "a", "max_tokens": 1}
    answer = httpx.post(f"{app.url}/v1/completions", json=body, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_path")
    wait_until(app.at_rest, 10, "at rest after a refusal")
