"""One application for all cells: two gateways, two engines of the tiny Llama, a scheduler and its spare."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.chaos.cell import Application, every_ask
from benchmarks.chaos.client import Known, learn
from benchmarks.chaos.command import ENGINES, GATEWAYS, MODEL, PLACES_OF_ENGINE, SECTIONS
from tests.integration.cluster import Cluster

READER_STALL_S = 3.0


@pytest.fixture(scope="package")
def application(cluster: Cluster):
    gateway = SECTIONS["gateway"] | {"reader_stall_s": READER_STALL_S}
    cluster.deploy("smollm2-cpu.yaml", **(SECTIONS | {"gateway": gateway}))
    yield Application(cluster.url, MODEL, ENGINES, GATEWAYS, ENGINES * PLACES_OF_ENGINE, cluster.family)
    cluster.remove()


@pytest.fixture(scope="package")
def known(application: Application) -> Known:
    """What the engines answer while nothing disturbs them."""
    return asyncio.run(learn(application.url, MODEL, every_ask(application.places)))
