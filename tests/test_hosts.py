"""Addresses of both families, as sockets and as parts of URLs."""

from __future__ import annotations

import socket

import pytest

from app.contract import EnginePort, SchedulerAddress
from app.hosts import family

BOTH = [("10.0.0.5", "10.0.0.5", socket.AF_INET), ("fd00::2", "[fd00::2]", socket.AF_INET6)]


@pytest.mark.parametrize(("host", "in_url", "family_"), BOTH)
def test_a_node_is_listened_on_and_addressed_by_its_family(host, in_url, family_):
    assert family(host) is family_
    assert EnginePort("r1", host, 8001, "secret").url("/health") == f"http://{in_url}:8001/health"
    assert SchedulerAddress(host, 8001, "secret").url == f"http://{in_url}:8001/"
