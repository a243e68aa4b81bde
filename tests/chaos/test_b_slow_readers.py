"""A client that does not read its answer keeps no place on an engine."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from urllib.parse import urlsplit

import httpx
import pytest

from benchmarks.chaos.cell import Application, read
from tests.chaos.conftest import READER_STALL_S
from tests.integration.cluster import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.long]

TOKENS = 600
# So long the engine itself may take for so many tokens, on a machine that is busy.
ENGINE_S = 60.0


def leases(application: Application) -> float:
    async def ask() -> float:
        async with httpx.AsyncClient(timeout=10) as http:
            figures = await read(http, application.url)
        assert figures.known
        return figures.leases

    return asyncio.run(ask())


def test_slow_readers_leave_all_places_to_others(application: Application):
    body = {"model": application.model, "prompt": "slow", "max_tokens": TOKENS, "stream": True}
    # Top tokens make each chunk a kilobyte: more than the buffers on the way hold.
    payload = json.dumps(body | {"ignore_eos": True, "logprobs": 5}).encode()
    address = urlsplit(application.url)
    readers = []
    for _ in range(application.places):
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((address.hostname, address.port))
        head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(payload)}\r\n\r\n"
        reader.sendall(head.encode() + payload)
        readers.append(reader)
    try:
        wait_until(lambda: leases(application) == application.places, 30, "every place taken")
        started_s = time.monotonic()
        answer = httpx.post(
            f"{application.url}/v1/completions", json=body | {"max_tokens": 1, "stream": False}, timeout=120
        )
        assert answer.status_code == 200
        wait_until(lambda: leases(application) == 0, ENGINE_S + READER_STALL_S, "every place free again")
        print(f"all places were free again after {time.monotonic() - started_s:.1f} s")
    finally:
        for reader in readers:
            reader.close()
