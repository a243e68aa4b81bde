"""The live page's HTTP: who may see it, what is sent, what is asked while nobody looks."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import aiohttp
import pytest

from app.config import StatusConfig
from app.contract import SchedulerView
from app.gateway.errors import ApiError
from app.gateway.status import EVENTS, JSON, MAX_VIEWERS, PAGE, STATUS_PATHS, STREAM_S, StatusFace
from app.gateway.tenants import ApiKeys
from app.status.view import from_json
from tests.fakes import FakeControlPlane, soon
from tests.status.views import busy

HERE, ELSEWHERE = ("127.0.0.1", 5), ("10.0.0.7", 5)
KEYS = {name: [sha256(f"{name}'s".encode()).hexdigest()] for name in ("blue", "red")}


class Reader:
    """A client of the face: status, headers, and a stream's body as it comes."""

    def __init__(
        self, face: StatusFace, path: str, client: tuple[str, int], headers: list[tuple[bytes, bytes]]
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._more = asyncio.Event()
        self._left = asyncio.Event()
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "client": client}
        self.done = asyncio.create_task(face(scope, self._receive, self._send))

    def leave(self) -> None:
        self._left.set()

    async def until(self, text: bytes) -> None:
        async def read() -> None:
            while text not in self.body:
                self._more.clear()
                await self._more.wait()

        await soon(read())

    async def _receive(self) -> dict:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]
        self._more.set()


class Counting(FakeControlPlane):
    """Counts how often it is asked."""

    asked = 0

    async def status(self):
        self.asked += 1
        return await super().status()


class Site:
    def __init__(
        self,
        http: aiohttp.ClientSession,
        config: StatusConfig,
        stream_s: float = STREAM_S,
        **keys: list[str],
    ) -> None:
        self.control = Counting()
        self.control.status_view = replace(busy(), ranks=())
        self.control.state = SchedulerView(1, 0, 0, "", ())
        self.face = StatusFace(
            self.control, http, config, ApiKeys(keys, open_without_keys=not keys), stream_s
        )

    def read(
        self, path: str, *keys: str | None, client: tuple[str, int] = HERE, origin: str | None = None
    ) -> Reader:
        headers = [(b"authorization", key.encode()) for key in keys if key is not None]
        if origin is not None:
            headers.append((b"origin", origin.encode()))
        return Reader(self.face, path, client, headers)

    async def whole(self, *arguments: str | None, **options: Any) -> Reader:
        reader = self.read(*arguments, **options)
        await soon(reader.done)
        return reader

    async def refused(self, *arguments: str | None, **options: Any) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await self.whole(*arguments, **options)
        return caught.value


@pytest.fixture
def site(http):
    return Site(http, StatusConfig(open=True))


@pytest.mark.parametrize("path", sorted(STATUS_PATHS))
async def test_by_default_there_is_no_page(http, path):
    error = await Site(http, StatusConfig()).refused(path)
    assert (error.status, error.code) == (404, "unknown_path")
    error = await Site(http, StatusConfig(), **KEYS).refused(path, "Bearer blue's")
    assert error.status == 404


@pytest.mark.parametrize("path", sorted(STATUS_PATHS))
async def test_an_open_page_is_for_this_machine_only(site, path):
    assert (await site.refused(path, client=ELSEWHERE)).status == 404
    assert (await site.refused(path, client=("::2", 5))).status == 404
    # A page from elsewhere in a browser here is not of this machine, as at the door (SECURITY.md).
    assert (await site.refused(path, origin="https://elsewhere.example")).status == 404


@pytest.mark.parametrize("path", sorted(STATUS_PATHS))
async def test_with_keys_only_the_named_tenants_see_it(http, path):
    site = Site(http, StatusConfig(tenants=["blue"]), **KEYS)
    for key in (
        None,
        "Bearer green's",
        "Basic !",
        "Basic é",
        "Basic " + base64.b64encode(b"green's").decode(),
    ):
        asked = await site.whole(path, key, client=ELSEWHERE)
        assert (asked.status, asked.headers["www-authenticate"].split()[0]) == (401, "Basic")
        assert json.loads(asked.body)["error"]["code"] in ("missing_api_key", "invalid_api_key")
    error = await site.refused(path, "Bearer red's")
    assert (error.status, error.code) == (403, "not_permitted")
    assert site.control.asked == 0


async def test_a_browsers_password_is_the_key(http):
    site = Site(http, StatusConfig(tenants=["blue"]), **KEYS)
    for key in ("Bearer blue's", "Basic " + base64.b64encode(b"anybody:blue's").decode()):
        assert (await site.whole(PAGE, key, client=ELSEWHERE)).status == 200


async def test_two_keys_are_none(http):
    site = Site(http, StatusConfig(tenants=["blue"]), **KEYS)
    for keys in (("Bearer blue's", "Bearer green's"), ("Bearer green's", "Bearer blue's")):
        assert (await site.whole(PAGE, *keys)).status == 401


async def test_a_page_in_a_browser_here_may_look(site):
    assert (await site.whole(JSON, origin="http://localhost:3000")).status == 200


async def test_the_page_runs_only_what_it_carries(site):
    page = await site.whole(PAGE)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert page.headers["cache-control"] == "no-store"
    assert b"llama-3-70b-instruct" in page.body


async def test_the_json_is_the_whole_value(site):
    answer = await site.whole(JSON)
    assert answer.headers["content-type"] == "application/json"
    assert from_json(answer.body) == site.control.status_view


async def test_without_the_scheduler_it_says_so(site):
    site.control.status_view = None
    error = await site.refused(PAGE)
    assert (error.status, error.code, error.retry_after_s) == (503, "scheduler_unreachable", 1)


async def test_viewers_share_one_question_and_leave_no_place_taken(site):
    viewers = [site.read(EVENTS) for _ in range(MAX_VIEWERS)]
    for viewer in viewers:
        await viewer.until(b"147")
        assert viewer.headers["content-type"].startswith("text/event-stream")
        assert viewer.body.startswith(b"retry: 1000\n\ndata: ")
    assert site.control.asked == 1
    error = await site.refused(EVENTS)
    assert (error.status, error.code, error.retry_after_s) == (503, "too_many_viewers", 10)
    for viewer in viewers:
        viewer.leave()
        await soon(viewer.done)
    again = site.read(EVENTS)
    await again.until(b"147")
    again.leave()
    await soon(again.done)


async def test_a_stream_ends_when_its_time_is_up_and_where_the_scheduler_is_away(http, site):
    brief = Site(http, StatusConfig(open=True), stream_s=0.0)
    await soon(brief.read(EVENTS).done)
    site.control.status_view = None
    await soon(site.read(EVENTS).done)
