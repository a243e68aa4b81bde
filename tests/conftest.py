"""One Ray cluster a session, on ports of its own; applications are deployed to it one after the other."""

from __future__ import annotations

import pytest

from tests.integration.environment import set_environment

set_environment()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with clusters of their own go first: a process that has used the session's stays bound to it.

    Serve's handles go on pushing metrics from a thread, which connects Ray again wherever it was left.
    """
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def cluster():
    """A Ray head with eight logical GPUs, and Serve behind HAProxy, as `scripts/serve` runs them."""
    from tests.integration.cluster import Cluster

    with Cluster.started() as cluster:
        yield cluster
