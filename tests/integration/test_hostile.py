"""The whole corpus against a real server with keys: no 5xx, no restart, in time, and the next is served."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from ray import serve
from schemathesis import GenerationMode

from app.contract import SECRET_HEADER
from app.gateway.errors import ApiError
from app.gateway.key_sources import RELOAD_AFTER_S
from tests.integration.cluster import Cluster, wait_until
from tests.integration.conftest import BODY_TIMEOUT_S, entries
from tests.integration.environment import CLIENT_TIMEOUT_S, HOSTILE_KEYS
from tests.security.corpus import CHAT, COMPLETIONS, CORPUS, GOOD, MODEL, PROMPT, RESPONSES, Hostile, body
from tests.security.wire import WIRE

pytestmark = pytest.mark.engine

BLUE = {"authorization": f"Bearer {HOSTILE_KEYS['blue']}"}
RED = {"authorization": f"Bearer {HOSTILE_KEYS['red']}"}
# Source, interpreters, traces.
TOLD = re.compile(rb"site-packages|Traceback|File \\?\"/|/(?:usr|home|root|opt|tmp|var)/[a-z]|0x[0-9a-f]{9}")
# A slow answer is asked for once more: the machine may have been busy with something else.
TRIES = 2
ERROR_FIELDS = {"message", "type", "param", "code"}


@pytest.fixture(scope="module")
def app(guarded: Cluster) -> Cluster:
    return guarded


def send(app: Cluster, hostile: Hostile) -> tuple[int, bytes, float]:
    """Status, body and seconds; the path goes out as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", app.http_port, timeout=60)
    started_s = time.monotonic()
    connection.request(hostile.method, hostile.path, hostile.body or None, {**BLUE, **hostile.headers})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, content, time.monotonic() - started_s


def engine(app: Cluster) -> str:
    """Which engine serves: another one after a restart."""
    text = httpx.get(f"{app.url}/metrics", timeout=10).text
    return ",".join(sorted(set(re.findall(r'vllm:num_requests_running\{[^}]*replica="([^"]+)"', text))))


def test_every_hostile_request_is_answered_in_time_and_the_next_is_served(app: Cluster):
    serving = engine(app)
    assert serving
    wrong = []
    for hostile in CORPUS:
        took_s = 0.0
        for _ in range(TRIES):
            status, content, took_s = send(app, hostile)
            if took_s <= hostile.within_s:
                break
        allowed = range(400, 500) if hostile.gateway else (200, *range(400, 500))
        if status not in allowed or took_s > hostile.within_s:
            wrong.append((hostile.name, status, round(took_s, 2), content[:200]))
        if status >= 400 and TOLD.search(content.replace(hostile.body, b"")):
            wrong.append((hostile.name, "tells too much", content[:300]))
        if status >= 400 and not json.loads(content).get("error", {}).keys() >= ERROR_FIELDS:
            wrong.append((hostile.name, "no error of OpenAI's", content[:200]))
        good = send(app, Hostile("good", COMPLETIONS, GOOD))[0]
        if good != 200:
            wrong.append((hostile.name, f"the next request got {good}"))
    assert not wrong, "\n".join(map(str, wrong))
    assert engine(app) == serving


@pytest.mark.parametrize("name", WIRE)
def test_bytes_below_http_get_a_refusal_or_nothing(app: Cluster, name: str):
    # HAProxy's patience, and some: whoever hears nothing for longer is left hanging.
    with socket.create_connection(("127.0.0.1", app.http_port), timeout=CLIENT_TIMEOUT_S + 3) as connection:
        answered = b""
        try:
            connection.sendall(WIRE[name])
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answered += part
        except TimeoutError:
            pytest.fail(f"no end after {answered[:500]!r}")
        except OSError:
            pass  # Cut off, as may be.
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answered)]
    # HAProxy's own 501 is its word for a method that it does not know.
    assert all(status < 500 or status == 501 for status in statuses), answered[:500]
    assert b"vllm:" not in answered, "a smuggled request was answered"
    assert not TOLD.search(answered)
    assert send(app, Hostile("good", COMPLETIONS, GOOD))[0] == 200


def begin(port: int, beginning: str, until: bytes) -> tuple[bytes, float]:
    """The answer up to these bytes to a request that never goes on, and how long it took."""
    answered = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(beginning.encode())
        started_s = time.monotonic()
        while until not in answered and (part := connection.recv(65536)):
            answered += part
    return answered, time.monotonic() - started_s


@pytest.fixture(scope="module")
def slow_clients(app: Cluster) -> dict[str, tuple[bytes, float]]:
    """What each of them is told, and when: all begin at the same time."""
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nauthorization: {BLUE['authorization']}\r\n"
    body_begun = f"{head}content-length: 1000\r\n\r\n{{"
    ((_, gateway_port), *_) = gateways(app)
    with ThreadPoolExecutor() as clients:
        waiting = {
            "body": clients.submit(begin, app.http_port, body_begun, b" 408 "),
            "body at a gateway": clients.submit(begin, gateway_port, body_begun, b"body_timeout"),
            "head": clients.submit(begin, app.http_port, head, b" 408 "),
        }
        return {name: client.result() for name, client in waiting.items()}


def test_a_body_that_comes_too_slowly_is_refused_by_haproxy_in_its_time(slow_clients):
    """HAProxy has it whole before it passes it on, and so ends it by `timeout client`."""
    answered, took_s = slow_clients["body"]
    assert b" 408 " in answered
    assert took_s < CLIENT_TIMEOUT_S + 3


def test_a_body_that_comes_too_slowly_is_refused_by_the_gateway_in_its_stated_time(slow_clients):
    """At a gateway's own port, which HAProxy knows."""
    answered, took_s = slow_clients["body at a gateway"]
    assert b" 408 " in answered
    assert b"body_timeout" in answered
    assert BODY_TIMEOUT_S - 0.5 < took_s < BODY_TIMEOUT_S + 3


def test_a_head_that_comes_too_slowly_is_cut_off(slow_clients):
    """HAProxy's `timeout client`, which scripts/serve sets, bounds the head too."""
    answered, took_s = slow_clients["head"]
    assert answered == b"" or b" 408 " in answered
    assert took_s < CLIENT_TIMEOUT_S + 5


def test_an_answer_that_takes_longer_than_a_head_may_is_not_cut_off(app: Cluster):
    # On a machine that is fast, the longer one.
    for tokens in (400, 2000):
        slow = body(COMPLETIONS, max_tokens=tokens, ignore_eos=True, n=8, prompt="a")
        status, content, took_s = send(app, Hostile("slow", COMPLETIONS, slow))
        assert status == 200, content[:300]
        if took_s > CLIENT_TIMEOUT_S:
            return
    pytest.fail(f"{took_s:.1f} s: the test must outlast the timeout")


def test_generated_requests_do_no_harm(app: Cluster):
    """Schemathesis over real HTTP, both modes: statuses, types and shapes are the document's."""
    schema = schemathesis.openapi.from_url(f"{app.url}/openapi.json")
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.status_code_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.response_schema_conformance,
    ]
    for path in ("/v1/chat/completions", COMPLETIONS, "/v1/responses", "/tokenize", "/detokenize"):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(schema[path]["POST"].as_strategy(generation_mode=mode))
            def harmless(case):
                # One token: what is looked for does not take long answers.
                if isinstance(case.body, dict):
                    case.body |= {"max_tokens": 1, "max_output_tokens": 1, "n": 1}
                case.call_and_validate(base_url=app.url, headers=BLUE, checks=checks, timeout=30)

            harmless()
    assert send(app, Hostile("good", COMPLETIONS, GOOD))[0] == 200


@pytest.mark.parametrize(
    "asked",
    [
        body(COMPLETIONS, prompt=[5, 436527743]),
        body(COMPLETIONS, logit_bias={"99999999": 1}),
        body(CHAT, allowed_token_ids=[99_999_999]),
        body(CHAT, structured_outputs={"regex": "("}),
        body(RESPONSES, logit_bias={"99999999": 1}),
        body(RESPONSES, structured_outputs={"regex": "("}),
    ],
)
def test_a_stream_is_refused_as_a_whole_answer_is(app: Cluster, asked: bytes):
    path = COMPLETIONS if b'"prompt"' in asked else CHAT if b'"messages"' in asked else RESPONSES
    whole, streamed = (
        send(app, Hostile("refused", path, json.dumps({**json.loads(asked), "stream": stream}).encode()))
        for stream in (False, True)
    )
    assert whole[0] == 400
    assert whole[:2] == streamed[:2]


def hits(app: Cluster) -> float:
    return app.metric("vllm:prefix_cache_hits_total")


def test_a_tenant_does_not_find_anothers_prompt_in_the_cache(app: Cluster):
    request = {"model": MODEL, "prompt": [7, 8, 9] * 200, "max_tokens": 1}

    def ask(headers: dict[str, str], **fields: str) -> float:
        before = hits(app)
        answer = httpx.post(
            f"{app.url}{COMPLETIONS}", json={**request, **fields}, headers=headers, timeout=30
        )
        assert answer.status_code == 200
        return hits(app) - before

    assert ask(BLUE) == 0
    assert ask(BLUE) > 500
    assert ask(RED) == 0
    assert ask(RED, cache_salt="x") == 0
    assert ask(RED) > 500


def test_keys_change_without_a_restart(app: Cluster, key_file: Path):
    def status(key: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.get(f"{app.url}/v1/models", headers=headers, timeout=10).status_code

    def replaced(text: str) -> None:
        new = key_file.with_name("new")
        new.write_text(text)
        os.replace(new, key_file)

    assert (status(HOSTILE_KEYS["red"]), status("sk-new")) == (200, 401)
    replaced(entries({**HOSTILE_KEYS, "red": "sk-new"}))
    wait_until(lambda: status("sk-new") == 200, RELOAD_AFTER_S + 3, "the new key")
    assert status(HOSTILE_KEYS["red"]) == 401
    replaced("nonsense")
    time.sleep(RELOAD_AFTER_S)
    assert (status("sk-new"), status(HOSTILE_KEYS["blue"])) == (200, 200)
    replaced(entries(HOSTILE_KEYS))
    wait_until(lambda: status(HOSTILE_KEYS["red"]) == 200, RELOAD_AFTER_S + 3, "the old key")


def test_the_handle_tells_no_more_than_http(app: Cluster):
    handle = serve.get_app_handle("llm")
    with pytest.raises(ApiError) as refused:
        handle.completions.remote({"model": MODEL, "prompt": PROMPT}).result()
    assert refused.value.status == 401
    call = {"model": MODEL, "prompt": PROMPT, "chat_template": "{{ 1 }}"}
    with pytest.raises(ApiError) as refused:
        handle.completions.remote(call, api_key=HOSTILE_KEYS["blue"]).result()
    assert refused.value.code == "forbidden_field"


def is_http(port: int) -> bool:
    """True for a port that answers as a gateway does."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def listening(app: Cluster, name: str) -> set[tuple[str, int]]:
    """Where the cluster's processes of that name listen."""
    found = set()
    for process in app.processes(name):
        with contextlib.suppress(psutil.Error):
            sockets = process.net_connections("tcp")
            found |= {tuple(one.laddr) for one in sockets if one.status == psutil.CONN_LISTEN}
    return found


def gateways(app: Cluster) -> set[tuple[str, int]]:
    """Where gateways answer clients."""
    return {address for address in listening(app, "ServeReplica:llm:Gateway") if is_http(address[1])}


def test_an_engines_port_answers_nobody_without_its_secret(app: Cluster):
    (port,) = serve.get_deployment_handle("Scheduler", "llm").view.remote().result().engines
    for headers in ({}, BLUE, {SECRET_HEADER: "guess", "x-engine-lease": "guess"}):
        for path in ("/metrics", "/health", "/docs", COMPLETIONS):
            answer = httpx.request("POST" if path == COMPLETIONS else "GET", port.url(path), headers=headers)
            assert answer.status_code == 401
    known = {SECRET_HEADER: port.secret}
    for path in ("/docs", "/openapi.json", "/v1/models", "/server_info"):
        assert httpx.get(port.url(path), headers=known).status_code == 404
    assert httpx.post(port.url(COMPLETIONS), content=GOOD, headers=known).status_code == 403


def test_ray_answers_nobody_without_its_token(app: Cluster):
    dashboard = httpx.get(f"{app.dashboard}/api/serve/applications/", timeout=10)
    assert dashboard.status_code in (401, 403)
    token = {"authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}
    assert httpx.get(f"{app.dashboard}/api/serve/applications/", headers=token, timeout=10).status_code == 200
    jobs = httpx.post(f"{app.dashboard}/api/jobs/", json={"entrypoint": "id"}, timeout=10)
    assert jobs.status_code in (401, 403)
    host, port = app.dashboard.removeprefix("http://").split(":")
    assert {address for address, number in listening(app, "dashboard") if number == int(port)} == {host}
    # The gateways' own ports are as loopback as the entrance.
    assert {address for address, _ in gateways(app)} == {"127.0.0.1"}
