"""One Ray cluster a session, on ports of its own; applications are deployed to it one after the other."""

from __future__ import annotations

import pytest

from tests.integration.environment import set_environment

set_environment()


@pytest.fixture(scope="session")
def cluster():
    """A Ray head with eight logical GPUs, and Serve behind HAProxy, as `scripts/serve` runs them."""
    from tests.integration.cluster import Cluster

    with Cluster.started() as cluster:
        yield cluster
