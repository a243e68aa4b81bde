"""The HTTP face, visited as a server would: by ASGI messages."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from hashlib import sha256

import aiohttp
import pytest

from app.config import StatusConfig
from app.contract import RateLimits, Refusal, SchedulerView
from app.flow.config import FlowConfig, TenantPolicy
from app.flow.outcome import Outcome
from app.flow.ticket import RateLimit
from app.gateway.exchange import Exchange
from app.gateway.http import HttpFace
from app.gateway.incoming import Incoming
from app.gateway.ranks import engine_ranks
from app.gateway.reads import VIEW_KEEP_S
from app.gateway.schemas import SCHEMAS
from app.gateway.status import STATUS_PATHS, StatusFace
from app.gateway.tenants import ApiKeys
from app.limits import RequestLimits
from tests.entered import Entered
from tests.fakes import TIERS, EngineRequest, FakeControlPlane, FakeEngine, dead_port, soon, window

CHAT = "/v1/chat/completions"
MAX_BODY_BYTES = 2000
WHOLE = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}).encode()
STREAM = WHOLE[:-1] + b', "stream": true}'
# Long enough to be waited for, short enough to be waited out.
BRIEF_S = 0.1
# A little above what is counted now: a change that needs more says why in raising it.
MAX_CALLS_A_CHUNK = 11
READY = SchedulerView(2, queued=3, in_flight=4, metrics="# the scheduler's\n", engines=())


class Visit:
    """One request to an ASGI application, and what its client sees; with `cut` the body never ends."""

    def __init__(
        self,
        app: HttpFace,
        method: str,
        path: str,
        *parts: bytes,
        cut: bool = False,
        key: str | None = None,
        root: str = "",
    ) -> None:
        self._messages = [
            {"type": "http.request", "body": part, "more_body": cut or number < len(parts)}
            for number, part in enumerate(parts or [b""], start=1)
        ]
        self._left = asyncio.Event()
        # Cleared: its buffers are full, and the server waits.
        self.reads = asyncio.Event()
        self.reads.set()
        self.begun = asyncio.Event()
        self.grown = asyncio.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        headers = [] if key is None else [(b"authorization", key.encode())]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "root_path": root,
            "headers": headers,
            "client": ("127.0.0.1", 40000),
        }
        self._done = asyncio.create_task(app(scope, self._receive, self._send))

    def leave(self) -> None:
        self._left.set()

    async def done(self) -> Visit:
        await soon(self._done)
        return self

    @property
    def error(self) -> dict:
        return json.loads(self.body)["error"]

    async def _receive(self) -> dict:
        if self._messages:
            return self._messages.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            assert not self.status
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        await self.reads.wait()
        self.body += message["body"]
        self.complete = not message.get("more_body", False)
        self.grown.set()
        if self.body:
            self.begun.set()


class Site:
    """The face over a scripted control plane."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        reader_stall_s: float = 60.0,
        status: StatusConfig | None = None,
        **keys: list[str],
    ) -> None:
        self.control = FakeControlPlane()
        self.now_s = 0.0
        exchange = Exchange(self.control, http, TIERS, 60.0, 60.0, scheduler_retry_s=0.001)
        keyed = ApiKeys(keys, open_without_keys=not keys)
        page = StatusFace(self.control, http, status or StatusConfig(), keyed)
        limits = RequestLimits(max_body_bytes=MAX_BODY_BYTES)
        self.face = HttpFace(
            exchange,
            self.control,
            replace(window(), limits=limits),
            keyed,
            page,
            Incoming(FlowConfig(tenant=TenantPolicy(max_bytes=MAX_BODY_BYTES + 10)), 2 * MAX_BODY_BYTES),
            reader_stall_s,
            lambda: self.now_s,
        )

    def visit(
        self,
        method: str,
        path: str,
        *parts: bytes,
        cut: bool = False,
        key: str | None = None,
        root: str = "",
    ) -> Visit:
        return Visit(self.face, method, path, *parts, cut=cut, key=key, root=root)


@pytest.fixture
async def site():
    async with aiohttp.ClientSession() as http:
        yield Site(http)


async def test_a_web_socket_is_closed_before_it_opens_and_a_lifespan_is_let_be(site):
    sent = []

    async def send(message):
        sent.append(message)

    for kind in ("lifespan", "websocket"):
        await site.face({"type": kind, "path": CHAT, "headers": []}, None, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_whole_answer_comes_with_its_headers(site, engine):
    site.control.script.append(engine.grant)
    visit = site.visit("POST", CHAT, WHOLE[:20], WHOLE[20:])
    request = await engine.next_request()
    assert json.loads(request.body).keys() == json.loads(WHOLE).keys() | {"cache_salt"}
    request.answer(200, b'{"text": "Ho"}')
    await visit.done()
    assert (visit.status, visit.body, visit.complete) == (200, b'{"text": "Ho"}', True)
    assert visit.headers == {
        "content-type": "application/json",
        "content-length": "14",
        "x-ticket-id": site.control.tickets[0].ticket_id,
        "x-service-class": "standard",
        "x-queue-wait-ms": "250",
    }


async def app_calls(chunks: int) -> int:
    """Functions of `app` that a stream of so many chunks enters, sent one by one."""
    async with aiohttp.ClientSession() as http, FakeEngine.started() as engine:
        site = Site(http)
        site.control.script.append(engine.grant)
        visit = site.visit("POST", CHAT, STREAM)
        request = await engine.next_request()
        request.begin()
        with Entered() as entered:
            for number in range(chunks):
                text = b"data: %d\n\n" % number
                request.send(text)
                while not visit.body.endswith(text):
                    await soon(visit.grown.wait())
                    visit.grown.clear()
        request.send(b"data: [DONE]\n\n")
        request.end()
        await visit.done()
        await site.control.next_close()
        assert len(site.control.tickets) == 1
        return entered.calls


async def test_a_chunk_enters_a_handful_of_functions_and_calls_no_scheduler():
    assert await app_calls(60) - await app_calls(20) <= 40 * MAX_CALLS_A_CHUNK


async def test_a_stream_is_passed_on_as_it_is_made(site, engine):
    site.control.script.append(engine.grant)
    visit = site.visit("POST", CHAT, STREAM)
    request = await engine.next_request()
    request.begin()
    request.send(b"data: 1\n\n")
    await soon(visit.begun.wait())
    assert (visit.status, visit.body, visit.complete) == (200, b"data: 1\n\n", False)
    assert visit.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert visit.headers["cache-control"] == "no-cache"
    request.send(b"data: [DONE]\n\n")
    request.end()
    await visit.done()
    assert (visit.body, visit.complete) == (b"data: 1\n\ndata: [DONE]\n\n", True)


async def test_a_client_that_disconnects_while_queued_closes_its_ticket(site):
    visit = site.visit("POST", CHAT, WHOLE)
    await soon(site.control.queued.wait())
    visit.leave()
    await visit.done()
    assert (await site.control.next_close()).outcome is Outcome.CANCELLED
    assert visit.status == 0


async def test_a_client_that_disconnects_mid_stream_aborts_the_engines_work(site, engine):
    site.control.script.append(engine.grant)
    visit = site.visit("POST", CHAT, STREAM)
    request = await engine.next_request()
    request.begin()
    request.send(b"data: 1\n\n")
    await soon(visit.begun.wait())
    visit.leave()
    await visit.done()
    await soon(request.abandoned.wait())
    assert (await site.control.next_close()).outcome is Outcome.CANCELLED


async def streaming(
    http: aiohttp.ClientSession, engine: FakeEngine, stall_s: float = BRIEF_S
) -> tuple[Site, Visit, EngineRequest]:
    """A stream that has begun, of a site with little patience for who does not read it."""
    site = Site(http, reader_stall_s=stall_s)
    site.control.script.append(engine.grant)
    visit = site.visit("POST", CHAT, STREAM)
    request = await engine.next_request()
    request.begin()
    return site, visit, request


async def test_a_client_that_takes_nothing_of_its_stream_is_let_go_without_an_end(engine):
    async with aiohttp.ClientSession() as http:
        site, visit, request = await streaming(http, engine)
        request.send(b"data: 1\n\n")
        await soon(visit.begun.wait())
        visit.reads.clear()
        request.send(b"data: 2\n\n")
        await visit.done()
        await soon(request.abandoned.wait())
        assert (await site.control.next_close()).outcome is Outcome.CANCELLED
        assert (visit.body, visit.complete) == (b"data: 1\n\n", False)


async def test_a_client_that_takes_a_little_now_and_then_is_let_go_in_the_end(engine, monkeypatch):
    """A tenth of what it may be waited for at a time, so that a busy machine does not let it go for one."""
    stalls, stall_s = 3, 5 * BRIEF_S
    monkeypatch.setattr("app.gateway.patience.STALLS_IN_ALL", stalls)
    async with aiohttp.ClientSession() as http:
        site, visit, request = await streaming(http, engine, stall_s)
        taken = 0
        while not request.abandoned.is_set() and taken < 100 * stalls:
            request.send(b"data: 1\n\n")
            await asyncio.sleep(stall_s / 10)
            visit.reads.set()
            await asyncio.sleep(0.01)
            visit.reads.clear()
            taken += 1
        assert stalls < taken < 100 * stalls
        await visit.done()
        assert (await site.control.next_close()).outcome is Outcome.CANCELLED


async def test_a_client_that_disconnects_before_its_body_is_whole_takes_no_lease(site):
    visit = site.visit("POST", CHAT, WHOLE, cut=True)
    visit.leave()
    await visit.done()
    assert (visit.status, site.control.tickets) == (0, [])


async def test_a_refusal_carries_the_time_to_come_back(site):
    site.control.script.append(Refusal(Outcome.REJECTED_FULL, 7))
    visit = await site.visit("POST", CHAT, WHOLE).done()
    assert (visit.status, visit.headers["retry-after"]) == (429, "7")
    assert (visit.error["code"], visit.error["type"]) == ("rejected_full", "rate_limit_error")


async def test_a_bad_request_takes_no_lease(site):
    for body in (b"{", b'{"model": "tiny", "messages": "' + b"x" * 1500 + b'"}'):
        visit = await site.visit("POST", CHAT, body).done()
        assert visit.status == 400
    assert site.control.tickets == []


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/v1", "/v1/files", "/v1/chat", CHAT + "/", "/load", "/pause", "/invocations"]
)
async def test_what_is_not_on_the_list_does_not_exist(site, path):
    visit = await site.visit("GET", path).done()
    assert (visit.status, visit.error["code"], visit.error["param"]) == (404, "unknown_path", "path")


async def test_paths_are_below_the_prefix_that_serve_has_left_in_them(site, engine):
    site.control.script.append(engine.grant)
    visit = site.visit("POST", "/llm" + CHAT, WHOLE, root="/llm")
    request = await engine.next_request()
    assert request.path == CHAT
    request.answer(200, b"{}")
    assert (await visit.done()).status == 200
    assert (await site.visit("GET", "/llm/health", root="/llm").done()).status == 200


@pytest.mark.parametrize("path", ["/llm", "/llmhealth", "/llm2/health", "/llm/llm/health", "/health"])
async def test_what_is_not_below_the_prefix_does_not_exist(site, path):
    visit = await site.visit("GET", path, root="/llm").done()
    assert (visit.status, visit.error["code"]) == (404, "unknown_path")


@pytest.mark.parametrize("status", [StatusConfig(), StatusConfig(open=True)])
async def test_the_document_names_the_paths_that_are_served_and_no_others(status):
    async with aiohttp.ClientSession() as http:
        site = Site(http, status=status)
        paths = json.loads((await site.visit("GET", "/openapi.json").done()).body)["paths"]
        assert {path for path, described in paths.items() if "post" in described} == set(SCHEMAS)
        for path in {*paths, *STATUS_PATHS}:
            # Refused by its method alone, where it is served.
            status_ = (await site.visit("DELETE", path).done()).status
            assert (path in paths) == (status_ == 405), path


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", path, "POST") for path in SCHEMAS]
    + [("POST", path, "GET, HEAD") for path in ("/health", "/ready", "/metrics", "/openapi.json")]
    + [("POST", path, "GET") for path in ("/ranks", "/v1/models", "/v1/models/tiny", "/v1/models/other")],
)
async def test_another_method_is_refused_with_the_one_that_is_allowed(site, method, path, allowed):
    visit = await site.visit(method, path, b"{}").done()
    assert (visit.status, visit.error["code"]) == (405, "method_not_allowed")
    assert visit.error["message"] == f"method: {method} is not allowed here, {allowed.split(',')[0]} is"
    assert visit.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json"])
async def test_what_is_open_answers_head_without_a_body(site, path):
    site.control.state = READY
    whole, head = [await site.visit(method, path).done() for method in ("GET", "HEAD")]
    assert (head.status, head.body, head.headers) == (200, b"", whole.headers)


async def test_a_refusal_of_head_has_no_body_either(site):
    keyed, unready = [await site.visit("HEAD", path).done() for path in ("/v1/models", "/ready")]
    assert (keyed.status, keyed.body, unready.status, unready.body) == (405, b"", 503, b"")


async def test_a_body_is_refused_as_soon_as_it_is_too_large(site):
    visit = await site.visit("POST", CHAT, b" " * MAX_BODY_BYTES, b" ", b"never read").done()
    assert (visit.status, visit.error["code"], visit.error["param"]) == (413, "body_too_large", "body")
    assert str(MAX_BODY_BYTES) in visit.error["message"]
    assert (await site.visit("POST", CHAT, b" " * MAX_BODY_BYTES).done()).status == 400


async def test_bodies_that_do_not_end_are_bounded_together_and_a_client_that_leaves_frees_its_part(site):
    slow = site.visit("POST", CHAT, b" " * MAX_BODY_BYTES, cut=True)
    await asyncio.sleep(0)
    refused = await site.visit("POST", CHAT, WHOLE).done()
    assert (refused.status, refused.error["code"]) == (429, "rejected_tenant_bytes")
    assert refused.headers["retry-after"] == "1"
    slow.leave()
    await slow.done()
    assert (await site.visit("POST", CHAT, b"{}").done()).error["code"] == "missing_field"


async def test_the_one_model_is_listed_and_shown(site):
    listed = json.loads((await site.visit("GET", "/v1/models").done()).body)
    shown = json.loads((await site.visit("GET", "/v1/models/tiny").done()).body)
    assert listed == {"object": "list", "data": [shown]}
    assert (shown["id"], shown["object"], shown["max_model_len"]) == ("tiny", "model", 64)
    other = await site.visit("GET", "/v1/models/gpt-9").done()
    assert (other.status, other.error["code"]) == (404, "model_not_found")


async def test_a_gateway_is_healthy_without_an_engine(site):
    site.control.state = None
    assert (await site.visit("GET", "/health").done()).status == 200


async def test_it_is_ready_once_an_engine_is(site):
    before = await site.visit("GET", "/ready").done()
    assert (before.status, before.error["code"], before.headers["retry-after"]) == (
        503,
        "rejected_no_engine",
        "1",
    )
    assert before.error["message"] == "No engine is ready. Try again in 1 s."
    site.control.state = READY
    site.now_s += VIEW_KEEP_S
    after = await site.visit("GET", "/ready").done()
    assert after.status == 200
    assert json.loads(after.body) == {"status": "ready", "replicas": 2, "queued": 3}


@pytest.mark.parametrize("path", ["/ready", "/metrics", "/ranks"])
async def test_without_the_scheduler_it_says_so(site, path):
    site.control.state = None
    visit = await site.visit("GET", path).done()
    assert (visit.status, visit.error["code"]) == (503, "scheduler_unreachable")


async def test_the_metrics_are_the_schedulers_and_the_engines(site, engine):
    engine.metrics = "# TYPE vllm:running gauge\nvllm:running 2.0\n"
    site.control.state = SchedulerView(1, 0, 0, READY.metrics, (engine.port,))
    visit = await site.visit("GET", "/metrics").done()
    assert visit.headers["content-type"].startswith("text/plain")
    assert visit.body.startswith(READY.metrics.encode())
    assert b'vllm:running{replica="engine-1"} 2.0' in visit.body


def looks_at(site: Site) -> list[bool]:
    """Each time that the scheduler is asked from now on: whether for its metrics too."""
    looks, view = list[bool](), site.control.view

    async def looking(metrics: bool = True) -> SchedulerView:
        looks.append(metrics)
        return await view(metrics)

    site.control.view = looking
    return looks


async def test_whoever_asks_for_metrics_at_a_time_gets_one_look(site, engine):
    engine.metrics = "# TYPE vllm:running gauge\nvllm:running 2.0\n"
    site.control.state = SchedulerView(1, 0, 0, READY.metrics, (engine.port,))
    looks = looks_at(site)
    together = [site.visit("GET", "/metrics") for _ in range(3)]
    bodies = {(await visit.done()).body for visit in together}
    assert (len(bodies), looks) == (1, [True])
    engine.metrics = engine.metrics.replace("2.0", "3.0")
    assert b" 3.0" in (await site.visit("GET", "/metrics").done()).body


async def test_whoever_asks_whether_it_is_ready_gets_a_look_that_is_a_moment_old(site):
    site.control.state = READY
    looks = looks_at(site)
    together = [site.visit("GET", "/ready") for _ in range(3)]
    assert {(await visit.done()).status for visit in together} == {200}
    site.now_s += 0.99 * VIEW_KEEP_S
    assert (await site.visit("GET", "/ready").done()).status == 200
    assert looks == [False]
    site.now_s += VIEW_KEEP_S
    assert (await site.visit("GET", "/ready").done()).status == 200
    assert looks == [False] * 2


async def test_the_ranks_are_asked_once_for_all_who_ask_at_a_time(site, engine, monkeypatch):
    asked = []

    async def asking(http, engines):
        asked.append(engines)
        return await engine_ranks(http, engines)

    monkeypatch.setattr("app.gateway.reads.engine_ranks", asking)
    site.control.state = SchedulerView(1, 0, 0, "", (engine.port,))
    for times in (1, 2):
        together = [site.visit("GET", "/ranks") for _ in range(3)]
        assert {(await visit.done()).body for visit in together} == {b'{"ranks": []}'}
        assert len(asked) == times


async def test_the_ranks_are_those_of_every_engine_that_answers(site, engine):
    engine.ranks = [{"rank": 0, "busy_s": 1.5}, {"rank": 1, "busy_s": 2.5}]
    site.control.state = SchedulerView(2, 0, 0, "", (engine.port, dead_port()))
    visit = await site.visit("GET", "/ranks").done()
    assert json.loads(visit.body) == {
        "ranks": [
            {"replica": "engine-1", "rank": 0, "busy_s": 1.5},
            {"replica": "engine-1", "rank": 1, "busy_s": 2.5},
        ]
    }


async def test_an_answer_tells_what_was_predicted_and_what_is_left_of_the_tenants_limits(site, engine):
    limits = RateLimits(RateLimit(60, 59, 1.0), RateLimit(None, None, 0.0))
    site.control.script.append(replace(engine.grant, predicted_ttft_s=0.1234, rate_limits=limits))
    visit = site.visit("POST", CHAT, WHOLE)
    (await engine.next_request()).answer(200, b"{}")
    await visit.done()
    told = {name: value for name, value in visit.headers.items() if name.startswith(("x-pre", "x-rate"))}
    assert told == {
        "x-predicted-ttft-ms": "123",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
    }


async def test_with_keys_only_their_owners_are_served_and_a_header_names_no_tenant(engine):
    async with aiohttp.ClientSession() as http:
        site = Site(http, blue=[sha256(b"blue's").hexdigest()], red=[sha256(b"red's").hexdigest()])
        for key in (None, "", "Bearer", "Bearer ", "Bearer green's", "Basic blue's", "blue's"):
            visit = await site.visit("POST", CHAT, WHOLE, key=key).done()
            assert (visit.status, visit.error["type"]) == (401, "authentication_error")
            assert "green" not in visit.error["message"]
        assert site.control.tickets == []
        for key in ("Bearer red's", "bearer blue's"):
            site.control.script.append(engine.grant)
            visit = site.visit("POST", CHAT, WHOLE, key=key)
            (await engine.next_request()).answer(200, b"{}")
            await visit.done()
        assert [ticket.tenant for ticket in site.control.tickets] == ["red", "blue"]


async def test_without_keys_everyone_is_one_tenant(site, engine):
    site.control.script.append(engine.grant)
    visit = site.visit("POST", CHAT, WHOLE, key="Bearer anything")
    (await engine.next_request()).answer(200, b"{}")
    await visit.done()
    assert site.control.tickets[0].tenant == "default"
