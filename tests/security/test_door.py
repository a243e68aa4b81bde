"""Who is let in, what a head may be, and what of it reaches an engine: nothing of the client's."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from hashlib import sha256

import pytest

from app.contract import LEASE_HEADER, PRIORITY_HEADER, SECRET_HEADER
from app.gateway.tenants import ApiKeys
from app.limits import RequestLimits
from tests.fakes import SECRET, soon
from tests.security.corpus import CHAT, COMPLETIONS, GOOD, HEADERS, body
from tests.security.site import Site

KEY = "sk-blue"
KEYS = ApiKeys({"blue": [sha256(KEY.encode()).hexdigest()], "red": [sha256("ключ".encode()).hexdigest()]})
BLUE = [(b"authorization", b"Bearer sk-blue")]
TRACE = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
NO_TRACE = f"00-{0:032x}-{0:016x}-00"


@pytest.fixture
async def site():
    async with Site.started(KEYS) as site:
        yield site


@pytest.fixture
async def open_site():
    async with Site.started() as site:
        yield site


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer sk-blu",
        b"Bearer sk-blue1",
        b"Bearer sk-blue,sk-red",
        b"Bearer SK-BLUE",
        b"Bearer  ",
        b"Basic c2stYmx1ZTo=",
        b"sk-blue",
        b"Token sk-blue",
        b"Bearer " + sha256(b"sk-blue").hexdigest().encode(),
        b"Bearer sk-blue\x00",
        b"Bearer \xff\xfe",
        b"Bearer ' OR 1=1 --",
        b"Bearer null",
        b"Bearer " + b"x" * 10_000,
    ],
)
@pytest.mark.parametrize(
    "method_path",
    [("POST", CHAT), *(("GET", f"/v1/models{name}") for name in ("", "/tiny-llama", "/another"))],
)
async def test_without_a_key_there_is_neither_answer_nor_model(site, value, method_path):
    answer = await site.ask(*method_path, body(CHAT), [(b"authorization", value)])
    assert (answer.status, answer.error["type"]) == (401, "authentication_error")
    assert b"blue" not in answer.body
    assert site.control.tickets == []


@pytest.mark.parametrize("first", [b"Bearer sk-blue", b"Bearer wrong"])
async def test_two_keys_are_none(site, first):
    headers = [(b"authorization", first), (b"authorization", b"Bearer sk-blue")]
    assert (await site.ask("POST", COMPLETIONS, GOOD, headers)).status == 401


async def test_a_key_of_any_bytes_is_its_tenants(site):
    answer = await site.ask("POST", COMPLETIONS, GOOD, [(b"authorization", "Bearer ключ".encode())])
    assert (answer.status, site.control.tickets[-1].tenant) == (200, "red")


async def test_with_keys_it_does_not_matter_where_a_client_is(site):
    headers = [*BLUE, (b"origin", b"https://elsewhere.example")]
    assert (await site.ask("POST", COMPLETIONS, GOOD, headers, client=("10.1.2.3", 5))).status == 200


@pytest.mark.parametrize("client", [("10.1.2.3", 5), ("fd00::1", 5), ("testclient", 5), ("", 0), None])
async def test_without_keys_clients_elsewhere_are_refused(open_site, client):
    answer = await open_site.ask("POST", COMPLETIONS, GOOD, client=client)
    assert (answer.status, answer.error["code"]) == (403, "not_local")
    assert open_site.control.tickets == []


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (b"origin", b"http://localhost:3000", 200),
        (b"origin", b"http://127.0.0.1:8000", 200),
        (b"origin", b"http://[::1]:8000", 200),
        (b"origin", b"https://elsewhere.example", 403),
        (b"origin", b"http://localhost.elsewhere.example", 403),
        (b"origin", b"http://127.0.0.1.elsewhere.example", 403),
        (b"origin", b"null", 403),
        (b"origin", b"http://[", 403),
        (b"origin", b"\xff", 403),
        # DNS rebinding: the page is then of the same origin, and says none.
        (b"host", b"localhost", 200),
        (b"host", b"127.0.0.1:8000", 200),
        (b"host", b"[::1]:8000", 200),
        (b"host", b"elsewhere.example:8000", 403),
        (b"host", b"", 403),
    ],
)
async def test_without_keys_pages_from_elsewhere_are_refused(open_site, name, value, status):
    assert (await open_site.ask("POST", COMPLETIONS, GOOD, [(name, value)])).status == status


async def test_without_keys_no_second_origin_hides_a_first(open_site):
    origins = [(b"origin", b"https://elsewhere.example"), (b"origin", b"http://localhost")]
    for headers in (origins, origins[::-1]):
        assert (await open_site.ask("POST", COMPLETIONS, GOOD, headers)).status == 403


@pytest.mark.parametrize("name", HEADERS)
async def test_an_engine_gets_no_header_of_a_client(site, name):
    given = [(key.lower().encode(), value.encode()) for key, value in HEADERS[name].items()]
    assert (await site.ask("POST", COMPLETIONS, GOOD, [*BLUE, *given])).status == 200
    (request,) = site.reached
    ticket = site.control.tickets[0]
    set_here = {SECRET_HEADER: SECRET, LEASE_HEADER: ticket.ticket_id, PRIORITY_HEADER: "1"}
    got = {key.lower(): value for key, value in request.headers.items()}
    assert {key: value for key, value in got.items() if key.startswith("x-")} == set_here
    # A trace goes on, where it is one.
    assert TRACE.fullmatch(got.pop("traceparent", NO_TRACE))
    assert got.keys() <= {
        *set_here,
        "host",
        "content-type",
        "content-length",
        "accept",
        "accept-encoding",
        "user-agent",
    }
    assert got["content-type"] == "application/json"
    # Nor does it change who pays, or in which class.
    assert (ticket.tenant, ticket.class_name, ticket.priority) == ("blue", "", 0)


async def test_the_salt_that_an_engine_gets_is_the_tenants_whatever_the_body_says(site):
    red = [(b"authorization", "Bearer ключ".encode())]
    for headers in (BLUE, red):
        for own in ({}, {"cache_salt": "mine"}):
            assert (await site.ask("POST", CHAT, body(CHAT, **own), headers)).status == 200
    salts = [json.loads(request.body)["cache_salt"] for request in site.reached]
    assert len(set(salts)) == 4
    assert not {"mine", "blue", "red"} & set(salts)


async def test_headers_that_are_too_many_or_too_large_are_refused(site):
    many = [(f"x-{number}".encode(), b"") for number in range(101)]
    large = [(b"x-large", b"x" * 16 * 1024)]
    for headers in (many, large):
        answer = await site.ask("POST", COMPLETIONS, GOOD, [*BLUE, *headers])
        assert (answer.status, answer.error["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize("given", [[b"gzip"], [b"identity", b"br"], [b"\xff"]])
async def test_a_body_that_is_compressed_is_refused_by_its_header_and_not_taken_for_bad_json(site, given):
    codings = [(b"content-encoding", coding) for coding in given]
    answer = await site.ask("POST", COMPLETIONS, gzip.compress(GOOD), [*BLUE, *codings])
    assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")
    assert answer.error["param"] == "content-encoding"
    shown = repr(given[-1].decode(errors="surrogateescape"))
    assert answer.error["message"].startswith(f"content-encoding: {shown} is not read here: ")
    assert site.control.tickets == []


@pytest.mark.parametrize("length", [b"4194305", b"999999999999999999"])
async def test_a_body_that_is_announced_too_large_is_not_read(site, length):
    answer = await site.ask("POST", COMPLETIONS, GOOD, [*BLUE, (b"content-length", length)])
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")


async def test_a_body_that_does_not_come_is_not_waited_for_for_ever():
    limits = RequestLimits(body_timeout_s=0.01)
    async with Site.started(KEYS, limits) as site:
        sent: list[dict] = []
        first = {"type": "http.request", "body": b"{", "more_body": True}
        messages = [first]

        async def receive() -> dict:
            if messages:
                return messages.pop()
            return await asyncio.Event().wait()

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": BLUE, "client": None}
        await soon(site.face(scope, receive, send))
    assert sent[0]["status"] == 408
    assert (b"x-should-retry", b"false") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["error"]["code"] == "body_timeout"


async def test_an_accident_is_told_to_nobody(site, caplog, monkeypatch):
    def accident(*_: object) -> None:
        raise ValueError("the prompt is secret, the file /etc/secret")

    monkeypatch.setattr("app.gateway.http.read", accident)
    answer = await site.ask("POST", COMPLETIONS, GOOD, BLUE)
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert answer.error["message"] == "The server failed on this request."
    assert "ValueError in" in caplog.text
    assert "accident" in caplog.text
    assert "secret" not in caplog.text
