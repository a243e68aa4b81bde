"""The door of an engine's private port."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import httpx
import pytest
from vllm.exceptions import VLLMValidationError

from app import used
from app.contract import (
    ENGINE_DIED_STATUS,
    ENGINE_FAILED,
    HEALTH_PATH,
    LEASE_HEADER,
    LEASED_PATHS,
    LEASES_PATH,
    PRIORITY_HEADER,
    REVOKED_STATUS,
    SECRET_HEADER,
    Metered,
)
from app.engine.guard import OBSERVED_PATHS, Guard, current_run
from app.engine.leases import LiveLeases
from app.gateway.schemas import SCHEMAS
from tests.fakes import SECRET, soon

KEY = {SECRET_HEADER: SECRET}
PATH = "/v1/completions"


class Inside:
    """The application behind the door: answers 200 and notes what has reached it."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.priorities: list[int] = []
        self.fails = self.stumbles = False
        # The events of a stream.
        self.streams: tuple[bytes, ...] = ()
        # What it raises after these.
        self.raises: Exception | None = None
        # As vLLM does when its core dies: an event that says so, and a stream that ends in order.
        self.dies_after: int | None = None
        # As vLLM does, it says the head of a stream before it has a token, and stops when its client leaves.
        self.token: asyncio.Event | None = None
        self.waits = asyncio.Event()

    async def __call__(self, scope, receive, send) -> None:
        self.reached.append(scope.get("path", scope["type"]))
        if self.fails:
            raise RuntimeError("the engine is dead")
        run = current_run.get()
        if run is not None:
            run.metered.output_tokens += 5
            self.priorities.append(run.priority)
        if scope["type"] == "http":
            kind = [(b"content-type", b"text/event-stream; charset=utf-8")] if self.streams else []
            await send({"type": "http.response.start", "status": 200, "headers": kind})
            if self.streams:
                for event in self.streams:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                if self.raises is not None:
                    raise self.raises
                await send({"type": "http.response.body"})
            elif self.dies_after is not None:
                await self._die(run, send)
            elif self.token is None or await self._has_token(receive):
                await send({"type": "http.response.body", "body": b"inside"})

    async def _die(self, run, send) -> None:
        for _ in range(self.dies_after):
            await send({"type": "http.response.body", "body": b"token", "more_body": True})
        run.orphaned = True
        await send({"type": "http.response.body", "body": b"error"})

    async def _has_token(self, receive) -> bool:
        """False when the client has left first."""
        while (await receive())["more_body"]:
            pass
        self.waits.set()
        token, left = asyncio.ensure_future(self.token.wait()), asyncio.ensure_future(receive())
        await soon(asyncio.wait({token, left}, return_when=asyncio.FIRST_COMPLETED))
        assert token.done() or left.result() == {"type": "http.disconnect"}
        token.cancel()
        left.cancel()
        if self.stumbles:
            raise ConnectionError("the client has left")
        return not left.done()


@dataclass(frozen=True)
class Answered:
    status: int


class Door:
    def __init__(self) -> None:
        self.inside = Inside()
        self.leases = LiveLeases()
        self.guard = Guard(self.inside, self.leases, SECRET)

    async def knock(self, method: str, path: str, **headers: str) -> httpx.Response:
        """A request with `headers`, whose underscores stand for dashes."""
        transport = httpx.ASGITransport(self.guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await soon(client.request(method, path, headers=headers))

    async def knock_raw(self, method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Answered:
        """A request whose headers no client library would send."""
        sent: list[dict] = []

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        await soon(self.guard(scope, None, send))
        return Answered(sent[0]["status"])


@pytest.fixture
def door() -> Door:
    return Door()


async def test_a_request_with_the_secret_and_a_lease_runs_and_tells_what_it_used(door):
    response = await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    assert (response.status_code, response.content) == (200, b"inside")
    assert used.from_text(response.headers[used.USED_HEADER]).output_tokens == 5
    assert door.leases.ids() == frozenset()
    assert current_run.get() is None


async def test_a_stream_tells_what_it_used_after_its_last_event(door):
    door.inside.streams = (b"data: 1\n\n", b"data: 2\n\n")
    response = await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    end = used.StreamEnd()
    assert end.events(response.content) == b"data: 1\n\ndata: 2\n\n"
    assert end.used.output_tokens == 5
    assert used.USED_HEADER not in response.headers


def error_event(code: object) -> bytes:
    return b"data: " + json.dumps({"error": {"message": "no", "code": code}}).encode() + b"\n\n"


@pytest.mark.parametrize(("code", "status"), [(400, 400), (501, 501), (200, 500), ("x", 500), (None, 500)])
async def test_a_stream_that_begins_with_an_error_is_a_refusal(door, code, status):
    door.inside.streams = (error_event(code), b"data: [DONE]\n\n")
    response = await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    assert (response.status_code, response.json()) == (status, {"error": {"message": "no", "code": code}})
    assert response.headers["content-type"] == "application/json"
    assert used.from_text(response.headers[used.USED_HEADER]).output_tokens == 5


BEGINNING = (b"event: response.created\ndata: 1\n\n", b"event: response.in_progress\ndata: 2\n\n")


def wrapped(cause: Exception) -> Exception:
    """As Starlette raises what an answer has met that had begun."""
    error = RuntimeError("Caught handled exception, but response already started.")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error", [VLLMValidationError("no such token"), wrapped(ValueError("no such token"))]
)
async def test_a_response_that_is_refused_after_it_has_begun_is_a_refusal(door, error):
    door.inside.streams, door.inside.raises = BEGINNING, error
    response = await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    assert (response.status_code, response.json()["error"]["message"]) == (400, "no such token")
    assert used.USED_HEADER in response.headers


async def test_a_response_that_fails_before_it_has_said_anything_is_an_error_that_is_logged(door):
    door.inside.streams, door.inside.raises = BEGINNING, RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})


async def test_a_response_has_all_its_events(door):
    door.inside.streams = (*BEGINNING, b"event: response.output\ndata: 3\n\n")
    response = await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    assert used.StreamEnd().events(response.content) == b"".join(door.inside.streams)


async def test_a_stream_that_fails_later_ends_with_an_event_that_says_so(door):
    door.inside.streams, door.inside.raises = (b"data: 1\n\n",), ValueError("secret")
    response = await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    end = used.StreamEnd()
    first, failed = end.events(response.content).decode().split("\n\n")[:2]
    assert first == "data: 1"
    assert json.loads(failed.removeprefix("data: "))["error"]["code"] == "engine_error"
    assert "secret" not in failed
    assert (end.used.output_tokens, end.used.failed) == (5, True)


async def test_vllms_own_error_in_mid_stream_is_told_in_our_words_and_as_a_failure(door):
    door.inside.streams = (b"data: 1\n\n", error_event(500), b"data: [DONE]\n\n")
    response = await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    end = used.StreamEnd()
    first, failed, done = end.events(response.content).decode().split("\n\n")[:3]
    assert (response.status_code, first, done) == (200, "data: 1", "data: [DONE]")
    error = json.loads(failed.removeprefix("data: "))["error"]
    assert (error["code"], error["message"]) == ("engine_error", ENGINE_FAILED)
    assert end.used.failed


async def test_what_a_request_used_that_fails_can_be_asked_for(door):
    door.inside.fails = True
    with pytest.raises(RuntimeError, match="the engine is dead"):
        await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    assert (await door.knock("GET", LEASES_PATH + "a")).status_code == 401
    asked = await door.knock("GET", LEASES_PATH + "a", **KEY)
    assert (asked.status_code, used.from_text(asked.content)) == (200, Metered())
    assert (await door.knock("GET", LEASES_PATH + "b", **KEY)).status_code == 404


@pytest.mark.parametrize("path", sorted(LEASED_PATHS | OBSERVED_PATHS | {"/docs"}))
@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET + " "])
async def test_without_the_secret_nothing_is_told(door, path, secret):
    headers = {} if secret is None else {SECRET_HEADER: secret}
    response = await door.knock("POST", path, **headers, **{LEASE_HEADER: "a"})
    assert (response.status_code, door.inside.reached) == (401, [])
    assert response.json()["error"]["message"] == "this port is private"


@pytest.mark.parametrize("path", sorted(LEASED_PATHS))
async def test_what_computes_needs_a_lease(door, path):
    assert (await door.knock("POST", path, **KEY)).status_code == 403
    assert (await door.knock("POST", path, **KEY, **{LEASE_HEADER: ""})).status_code == 403
    assert door.inside.reached == []


@pytest.mark.parametrize("path", sorted(OBSERVED_PATHS))
async def test_what_only_reads_needs_no_lease(door, path):
    assert (await door.knock("GET", path, **KEY)).status_code == 200
    assert (await door.knock("POST", path, **KEY)).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PATH),
        ("POST", "/"),
        ("POST", PATH + "/"),
        ("GET", "/openapi.json"),
        ("POST", "/v1/load_lora_adapter"),
        ("POST", "/pause"),
        ("GET", "/v1/models"),
        # What the application inside would read as a path of the list.
        ("POST", "/v1/completion%73"),
        ("POST", "/v1%2Fcompletions"),
        ("POST", "//v1/completions"),
        ("POST", "/V1/completions"),
        ("GET", "/metric%73"),
        ("PUT", PATH),
        ("OPTIONS", PATH),
    ],
)
async def test_all_else_does_not_exist_whatever_the_lease(door, method, path):
    response = await door.knock(method, path, **KEY, **{LEASE_HEADER: "a"})
    assert (response.status_code, door.inside.reached) == (404, [])


async def test_a_lease_runs_one_request_at_a_time(door):
    door.inside.token = asyncio.Event()
    headers = {**KEY, LEASE_HEADER: "a"}
    knocking = asyncio.create_task(door.knock("POST", PATH, **headers))
    await soon(door.inside.waits.wait())
    second = await door.knock("POST", PATH, **headers)
    assert (second.status_code, door.inside.reached) == (403, [PATH])
    door.inside.token.set()
    assert (await soon(knocking)).status_code == 200


async def test_a_request_that_fails_ends_its_lease(door):
    door.inside.fails = True
    with pytest.raises(RuntimeError, match="the engine is dead"):
        await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    assert current_run.get() is None


async def test_a_request_whose_engine_dies_before_the_answer_may_run_elsewhere(door):
    door.inside.dies_after = 0
    response = await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    assert response.status_code == ENGINE_DIED_STATUS


async def test_an_answer_whose_engine_dies_has_no_end(door):
    door.inside.dies_after = 2
    headers = {**KEY, LEASE_HEADER: "a"}
    scope = {"type": "http", "method": "POST", "path": PATH}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b""}

    async def send(message: dict) -> None:
        sent.append(message)

    await soon(door.guard(scope, receive, send))
    assert [message.get("body") for message in sent] == [None, b"token", b"token"]
    assert sent[-1]["more_body"]


@pytest.mark.parametrize(("healthy", "status"), [(True, 200), (False, 503)])
async def test_the_engine_gives_a_sign_of_life_without_a_lease(door, healthy, status):
    door.guard = Guard(door.inside, door.leases, SECRET, lambda: healthy)
    assert (await door.knock("GET", HEALTH_PATH, **KEY)).status_code == status
    assert (await door.knock("GET", HEALTH_PATH)).status_code == 401
    assert door.inside.reached == []


async def test_a_request_runs_with_the_priority_of_its_lease(door):
    for lease_id, priority in (("a", {PRIORITY_HEADER: "2"}), ("b", {})):
        await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: lease_id}, **priority)
    assert door.inside.priorities == [2, 0]


async def test_a_lease_is_taken_back_before_the_answer_begins_and_nothing_of_it_is_sent(door):
    door.inside.token = asyncio.Event()
    knocking = asyncio.create_task(door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"}))
    await soon(door.inside.waits.wait())
    taken = await door.knock("DELETE", LEASES_PATH + "a", **KEY)
    assert (taken.status_code, taken.json()) == (200, {"revoked": True})
    assert (await soon(knocking)).status_code == REVOKED_STATUS
    assert door.leases.ids() == frozenset()


async def test_an_application_that_fails_because_its_lease_was_taken_back_is_not_at_fault(door):
    door.inside.token = asyncio.Event()
    door.inside.stumbles = True
    knocking = asyncio.create_task(door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"}))
    await soon(door.inside.waits.wait())
    await door.knock("DELETE", LEASES_PATH + "a", **KEY)
    assert (await soon(knocking)).status_code == REVOKED_STATUS
    assert door.leases.ids() == frozenset()


async def test_a_lease_is_not_taken_back_once_the_answer_has_begun(door):
    run = door.leases.attach("a", priority=0)
    run.tokens()
    taken = await door.knock("DELETE", LEASES_PATH + "a", **KEY)
    assert (taken.status_code, taken.json()) == (404, {"revoked": False})
    assert not run.revoked.is_set()


async def test_nobody_takes_a_lease_back_without_the_secret(door):
    assert (await door.knock("DELETE", LEASES_PATH + "a")).status_code == 401


async def test_a_lease_that_was_taken_back_before_its_request_came_runs_nothing(door):
    assert (await door.knock("DELETE", LEASES_PATH + "a", **KEY)).status_code == 200
    late = await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})
    assert late.status_code == REVOKED_STATUS
    assert door.inside.reached == []
    assert door.leases.ids() == frozenset()
    # The same ticket has another lease now.
    assert (await door.knock("POST", PATH, **KEY, **{LEASE_HEADER: "a"})).status_code == 200


@pytest.mark.parametrize("name", [SECRET_HEADER, LEASE_HEADER, PRIORITY_HEADER, "content-type"])
async def test_a_header_that_comes_twice_opens_nothing(door, name):
    given = [(name.encode(), value) for value in (SECRET.encode(), SECRET.encode())]
    headers = [(SECRET_HEADER.encode(), SECRET.encode()), (LEASE_HEADER.encode(), b"a"), *given]
    assert (await door.knock_raw("POST", PATH, headers)).status == 401
    assert door.inside.reached == []


@pytest.mark.parametrize("priority", ["-1", "1.5", "high", "", "9" * 5000])
async def test_a_priority_that_is_no_rank_runs_nothing(door, priority):
    headers = [(SECRET_HEADER, SECRET), (LEASE_HEADER, "a"), (PRIORITY_HEADER, priority)]
    raw = [(name.encode(), value.encode()) for name, value in headers]
    assert (await door.knock_raw("POST", PATH, raw)).status == 400
    assert door.inside.reached == []


async def test_a_web_socket_is_closed_before_it_opens(door):
    sent = []

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": PATH, "headers": [(SECRET_HEADER.encode(), SECRET.encode())]}
    await door.guard(scope, None, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert door.inside.reached == []


async def test_the_applications_own_start_and_end_pass(door):
    await door.guard({"type": "lifespan"}, None, None)
    assert door.inside.reached == ["lifespan"]


def test_the_gateway_and_the_engine_agree_on_what_may_be_asked():
    assert frozenset(SCHEMAS) == LEASED_PATHS
