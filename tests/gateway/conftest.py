"""What a gateway speaks to: an engine's port, and the pool of connections to it."""

from __future__ import annotations

import aiohttp
import pytest

from tests.fakes import FakeEngine


@pytest.fixture
async def engine():
    async with FakeEngine.started() as engine:
        yield engine


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as http:
        yield http
