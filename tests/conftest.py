"""One Ray cluster a session, on ports of its own; applications are deployed to it one after the other."""

from __future__ import annotations

import os
import tempfile

import pytest
from hypothesis import settings

from tests.integration.environment import set_environment

set_environment()

# No deadline of an example: it would tell what else the machine does. Interpreted, the decision core takes
# several times as long as compiled, and has the same tests.
INTERPRETED = os.environ.get("PROMISESERVE_INTERPRETED") == "1"
settings.register_profile("suite", deadline=None, max_examples=25 if INTERPRETED else 100)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with clusters of their own go first: a process that has used the session's stays bound to it.

    Serve's handles go on pushing metrics from a thread, which connects Ray again wherever it was left.
    """
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session", autouse=True)
def vllm_sockets():
    """An engine that is killed leaves them; they go with the session."""
    with tempfile.TemporaryDirectory(prefix="vllm-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_RPC_BASE_PATH", folder)
        yield


@pytest.fixture(scope="session")
def cluster():
    """A Ray head with eight logical GPUs, and Serve behind HAProxy, as `scripts/serve` runs them."""
    from tests.integration.cluster import Cluster

    with Cluster.started() as cluster:
        yield cluster
