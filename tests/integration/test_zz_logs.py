"""Last of all: no log of the whole suite's cluster holds a key, a secret, a token, a prompt or a refusal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray

from tests.integration.cluster import Cluster
from tests.integration.environment import HOSTILE_KEYS
from tests.integration.test_classes import KEYS
from tests.security.corpus import PROMPT

pytestmark = pytest.mark.engine

# Prompts of the suite's other tests; the shortest are too common to be looked for.
PROMPTS = [PROMPT, "The gateway takes", "Request number 1", "you are root"]


def secrets_of_the_suite() -> dict[str, str]:
    keys = {f"the key of {name}": key for name, key in {**KEYS, **HOSTILE_KEYS}.items()}
    prompts = {f"the prompt {prompt!r}": prompt for prompt in PROMPTS}
    return {"Ray's token": os.environ["RAY_AUTH_TOKEN"], **keys, **prompts}


@pytest.fixture(scope="module")
def folder(cluster: Cluster) -> Path:
    """With what processes say at their ends, too."""
    cluster.remove()
    return Path(ray._private.worker.global_worker.node.get_logs_dir_path())


def test_no_log_holds_a_secret_or_a_prompt(folder: Path):
    logs = [path for path in folder.rglob("*") if path.is_file()]
    assert any("replica_llm" in path.name for path in logs)
    found = [
        f"{path.relative_to(folder)}: {name}"
        for path in logs
        for name, text in secrets_of_the_suite().items()
        if text.encode() in path.read_bytes()
    ]
    assert found == []


def test_what_a_handle_was_refused_has_left_no_trace(folder: Path):
    """Others have: tests/integration/test_classes.py is refused by handle."""
    gateways = list(folder.rglob("*replica_llm*Gateway*"))
    assert gateways
    assert [path.name for path in gateways if b"ApiError" in path.read_bytes()] == []
