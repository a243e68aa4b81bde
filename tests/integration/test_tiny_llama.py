"""The whole application with a real engine: HTTP and handle, overload, disconnects, deaths."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import selectors
import signal
import socket
import subprocess
import sys
import threading

import httpx
import openai
import pytest
from ray import serve

from app.gateway.errors import ApiError
from app.gateway.status import MAX_VIEWERS
from app.status.view import RankLoad, StatusView, from_json
from tests.documented import documented
from tests.integration.cluster import MODEL, REPOSITORY, Cluster, completion, tiny_llama, wait_until

pytestmark = pytest.mark.engine

# Leases a replica: few, so that a queue is easy to make.
LIMIT = 8
MAX_QUEUED = 128
PATIENT = [
    {"name": name, "boost_s": boost_s, "min_share": 0.0, "ttft_budget_s": 300}
    for name, boost_s in (("interactive", 600), ("standard", 300), ("batch", 0))
]
# The bar: an abandoned request has left the engine after this.
ABORT_WITHIN_S = 2.0
# Seconds of work, within the window.
LONG = 1500
# Of a stream: an error event, or its end.
TAIL_BYTES = 4096

SETTINGS = {
    **tiny_llama(max_num_seqs=LIMIT, tool_call_parser="hermes"),
    "scheduler": {
        "max_queued": MAX_QUEUED,
        "requests_per_replica": LIMIT,
        # A second engine takes about a minute to start: what waits for it must not be evicted.
        "max_queue_wait_s": 300,
    },
    # What is tested here by hand waits for as long as it has to.
    "flow": {"classes": PATIENT, "limit": {"enabled": False}},
    "replicas": {
        "min": 1,
        "max": 2,
        "scale_on": "queue",
        "target_queue_depth": 40,
        "upscale_delay_s": 10,
        "drain_s": 20,
    },
}


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> Cluster:
    cluster.deploy("smollm2-cpu.yaml", **SETTINGS)
    return cluster


@pytest.fixture
def client(app: Cluster) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{app.url}/v1", api_key="unused", max_retries=0, timeout=120)


def raw(prompt: str, tokens: int, **options: object) -> dict[str, object]:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
    return body | options


def served(app: Cluster) -> float:
    """Requests that vLLM has answered to their length."""
    return app.metric("vllm:request_success_total", finished_reason="length")


def post(app: Cluster, body: dict[str, object]) -> socket.socket:
    """A completion request on a connection of its own, which the test may break."""
    payload = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", app.http_port))
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(payload)}\r\n\r\n"
    connection.sendall(head.encode() + payload)
    return connection


class Load(contextlib.AbstractContextManager["Load"]):
    """Streams that keep engines and queue busy until the block ends; then their clients leave.

    `cut_off` holds what was said last by those that ended otherwise than whole.
    """

    def __init__(self, app: Cluster, streams: int) -> None:
        self._app = app
        self._streams = streams
        self.cut_off: list[bytes] = []
        self._stop = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Load:
        for number in range(self._streams):
            connection = post(self._app, raw(f"load {number}", LONG, stream=True))
            self._selector.register(connection, selectors.EVENT_READ, b"")
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._reader.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()

    def _read(self) -> None:
        while not self._stop.is_set():
            for key, _ in self._selector.select(timeout=0.1):
                try:
                    part = key.fileobj.recv(65536)
                except OSError:
                    part = b""
                tail = (key.data + part)[-TAIL_BYTES:]
                if b'"error"' in tail or (not part and b"data: [DONE]" not in tail):
                    self.cut_off.append(tail)
                if part:
                    self._selector.modify(key.fileobj, selectors.EVENT_READ, tail)
                else:
                    self._selector.unregister(key.fileobj)


class TestAnswers:
    def test_whole_and_streamed_answers_are_the_same(self, client: openai.OpenAI):
        body = completion(prompt="The gateway takes", max_tokens=24)
        whole = client.completions.create(**body)
        chunks = list(client.completions.create(**body, stream=True))
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 24
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        # vLLM joins tokens that are made before the first of them has left, as on a machine that is busy.
        assert 1 < len(chunks) <= 24

    def test_chat_streams_and_ends(self, client: openai.OpenAI):
        messages = [{"role": "user", "content": "hello"}]
        options = {"extra_body": {"ignore_eos": True}, "max_tokens": 8, "stream": True}
        chunks = list(client.chat.completions.create(model=MODEL, messages=messages, **options))
        assert chunks[-1].choices[0].finish_reason == "length"

    def test_the_model_is_listed(self, client: openai.OpenAI):
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL

    def test_vllms_other_endpoints_are_there(self, app: Cluster):
        tokens = httpx.post(f"{app.url}/tokenize", json={"model": MODEL, "prompt": "hello"}).json()["tokens"]
        text = httpx.post(f"{app.url}/detokenize", json={"model": MODEL, "tokens": tokens}).json()["prompt"]
        assert text == "hello"
        answer = httpx.post(
            f"{app.url}/v1/responses",
            json={"model": MODEL, "input": "hello", "max_output_tokens": 16},
            timeout=60,
        )
        assert answer.json()["status"] in ("completed", "incomplete"), answer.text

    def test_output_can_be_bound_to_a_schema(self, client: openai.OpenAI):
        schema = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "yes?"}],
            max_tokens=64,
            response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
            temperature=0,
        )
        content = answer.choices[0].message.content
        assert content is not None
        assert content.lstrip().startswith("{")

    async def test_requests_with_many_answers_are_no_more_than_requests(self, app: Cluster):
        """More answers than the engine runs at once, and than a queue of as many requests would hold."""
        body = completion(prompt="hello", n=2 * LIMIT, max_tokens=4, temperature=1)
        async with httpx.AsyncClient(timeout=60) as client:
            posts = [client.post(f"{app.url}/v1/completions", json=body) for _ in range(4)]
            answers = await asyncio.gather(*posts)
        assert [answer.status_code for answer in answers] == [200] * 4
        assert {len(answer.json()["choices"]) for answer in answers} == {2 * LIMIT}

    def test_a_tool_is_called(self, client: openai.OpenAI):
        """A random model calls what it has to, with arguments of the only form that it may."""
        switch = {"type": "object", "properties": {"on": {"enum": [True]}}, "required": ["on"]}
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Light, please."}],
            tools=[{"type": "function", "function": {"name": "switch", "parameters": switch}}],
            tool_choice={"type": "function", "function": {"name": "switch"}},
            max_tokens=64,
            temperature=0,
        )
        [call] = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "switch"
        assert call.function.arguments.lstrip().startswith("{")

    def test_an_answer_has_one_id_of_each_kind(self, app: Cluster):
        body = completion(prompt="hello", max_tokens=1)
        answers = [
            httpx.post(f"{app.url}/v1/completions", json=one, headers={"x-request-id": "mine"}, timeout=60)
            for one in (body, {**body, "model": "another"})
        ]
        assert [answer.headers.get_list("x-request-id") for answer in answers] == [["mine"], ["mine"]]
        tickets = [answer.headers.get_list("x-ticket-id") for answer in answers]
        assert [len(ids) for ids in tickets] == [1, 0]

    async def test_64_streams_keep_to_themselves(self, app: Cluster):
        async with httpx.AsyncClient(timeout=300) as http:
            answers = await asyncio.gather(*(self._echoed(app, http, n) for n in range(64)))
        for number, (text, tokens, finish, _) in enumerate(answers):
            assert text.startswith(f"Request number {number}:")
            assert (tokens, finish) == (64, "length")
        # Eight at a time are a crowd: several tokens an event.
        assert sum(events for *_, events in answers) < 0.75 * 64 * 64
        wait_until(app.at_rest, 5, "at rest after the streams")

    async def _echoed(self, app: Cluster, http: httpx.AsyncClient, number: int):
        """The prompt comes back before the tokens: an answer shows whose it is."""
        body = raw(f"Request number {number}:", 64, stream=True, echo=True)
        body["stream_options"] = {"include_usage": True}
        text, finish, tokens, events = "", None, 0, 0
        async with http.stream("POST", f"{app.url}/v1/completions", json=body) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line.removeprefix("data: "))
                events += 1
                for choice in event["choices"]:
                    text += choice["text"]
                    finish = choice["finish_reason"] or finish
                if event.get("usage"):
                    tokens = event["usage"]["completion_tokens"]
        return text, tokens, finish, events


class TestRefusals:
    @pytest.mark.parametrize(
        ("path", "body", "status", "param", "value"),
        [
            ("/v1/chat/completions", "{", 400, "body", ""),
            ("/v1/chat/completions", {"model": "other", "messages": []}, 400, "messages", "[]"),
            ("/v1/completions", {"model": "other", "prompt": "a"}, 404, "model", "other"),
            ("/v1/completions", {"model": MODEL, "prompt": ""}, 400, "prompt", "''"),
            ("/v1/completions", {"model": MODEL, "prompt": "a", "max_tokens": "x"}, 400, "max_tokens", "'x'"),
            ("/v1/completions", {"model": MODEL, "prompt": [5] * 3000}, 400, "prompt", "3000"),
            ("/v1/completions", {"model": MODEL, "prompt": "a", "top_k": "x"}, 400, "top_k", "'x'"),
            (
                "/v1/chat/completions",
                {"model": MODEL, "messages": [{"role": "user", "content": 3}]},
                400,
                "messages.0.content",
                "3",
            ),
            ("/v1/load_lora_adapter", {}, 404, "path", "/v1/load_lora_adapter"),
            # It generates, and embeds nothing.
            ("/v1/embeddings", {"model": MODEL, "input": "a"}, 404, "path", "/v1/embeddings"),
        ],
    )
    def test_bad_input_names_field_and_value(self, app: Cluster, path, body, status, param, value):
        content = body if isinstance(body, str) else json.dumps(body)
        answer = httpx.post(f"{app.url}{path}", content=content, timeout=30)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (status, param), error
        assert error["type"] == "invalid_request_error"
        assert value in error["message"]

    def test_a_prompt_beyond_the_window_is_refused(self, client: openai.OpenAI):
        with pytest.raises(openai.BadRequestError) as refusal:
            client.completions.create(**completion(prompt="word " * 6000, max_tokens=1))
        assert refusal.value.code == "context_length_exceeded"

    def test_a_full_queue_says_when_to_come_back(self, app: Cluster):
        with Load(app, LIMIT + MAX_QUEUED):
            wait_until(lambda: app.metric("promiseserve_queue_depth") >= MAX_QUEUED - LIMIT, 30, "full queue")
            answers = [self._probe(app) for _ in range(LIMIT * 2)]
        refused = [answer for answer in answers if answer is not None]
        assert refused
        for answer in refused:
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "rejected_full"
            assert int(answer.headers["retry-after"]) >= 1
        wait_until(app.at_rest, 10, "at rest after the load")

    def _probe(self, app: Cluster) -> httpx.Response | None:
        """The refusal, or None when the request was queued (then it is abandoned)."""
        with contextlib.suppress(httpx.ReadTimeout):
            return httpx.post(f"{app.url}/v1/completions", json=raw("probe", 1), timeout=0.5)
        return None


class TestDisconnects:
    """A client that leaves, in each phase: nothing of its request stays."""

    def leave(self, app: Cluster, body: dict[str, object], when) -> float:
        """Sends a request, breaks the connection once `when` holds; seconds until the engine is empty, with
        the request aborted and not served: a fast engine is soon empty of both."""
        before = served(app)
        with post(app, body) as connection:
            when(connection)
        took_s = wait_until(app.at_rest, ABORT_WITHIN_S, "engine empty", every_s=0.05)
        assert served(app) == before
        return took_s

    def test_in_mid_stream(self, app: Cluster):
        def read_some(connection: socket.socket) -> None:
            seen = b""
            while seen.count(b"data: ") < 5:
                part = connection.recv(4096)
                assert part, seen
                seen += part

        self.leave(app, raw("mid-stream", LONG, stream=True), read_some)

    def test_before_the_first_token(self, app: Cluster):
        # A prefill that takes longer than noticing that it has begun.
        body = raw("", 64, stream=True) | {"prompt": [7] * 1900}

        def leased(_: socket.socket) -> None:
            wait_until(lambda: app.metric("promiseserve_leases") == 1, 5, "leased", every_s=0.01)

        self.leave(app, body, leased)

    def test_on_a_whole_answer(self, app: Cluster):
        self.leave(
            app,
            raw("whole", LONG),
            lambda _: wait_until(lambda: app.in_engines() == 1, 5, "running", every_s=0.02),
        )

    def test_while_queued(self, app: Cluster):
        with Load(app, LIMIT):
            wait_until(lambda: app.metric("promiseserve_leases") == LIMIT, 20, "engine full")
            cancelled = app.metric("promiseserve_requests_ended_total", outcome="cancelled")
            with post(app, raw("queued", LONG)):
                wait_until(lambda: app.metric("promiseserve_queue_depth") == 1, 5, "queued")
            wait_until(lambda: app.metric("promiseserve_queue_depth") == 0, ABORT_WITHIN_S, "queue empty")
            assert app.metric("promiseserve_requests_ended_total", outcome="cancelled") == cancelled + 1
        wait_until(app.at_rest, 10, "at rest after the load")


class TestHandle:
    @pytest.fixture
    def handle(self, app: Cluster):
        return serve.get_app_handle("llm")

    def test_whole_answers(self, handle):
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "ignore_eos": True}
        answer = handle.chat.remote({"model": MODEL, **body}).result(timeout_s=60)
        assert answer["usage"]["completion_tokens"] == 8
        answer = handle.completions.remote(raw("hello", 8)).result(timeout_s=60)
        assert answer["usage"]["completion_tokens"] == 8

    def test_streams(self, handle):
        stream = handle.options(stream=True)
        chunks = list(stream.completions_stream.remote(raw("hello", 8)))
        whole = handle.completions.remote(raw("hello", 8)).result(timeout_s=60)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
        # vLLM joins tokens that are made before the first of them has left.
        assert 1 < len(chunks) <= 8
        body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "ignore_eos": True}
        chunks = list(stream.chat_stream.remote({"model": MODEL, **body}))
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"

    def test_a_stream_comes_as_it_is_made_and_ends_with_its_caller(self, app: Cluster, handle):
        before = served(app)
        stream = handle.options(stream=True).completions_stream.remote(raw("by handle", LONG))
        first = next(iter(stream))
        assert first["choices"][0]["finish_reason"] is None
        assert app.in_engines() == 1
        stream.cancel()
        wait_until(app.at_rest, 30, "at rest after the cancelled stream")
        assert served(app) == before

    @pytest.mark.parametrize(
        "changed",
        [
            {"model": "other"},
            {"prompt": ""},
            {"prompt": [5] * 3000},
            {"max_tokens": "x"},
            {"top_k": "x"},
            {"use_beam_search": True},
        ],
    )
    def test_a_refusal_is_the_same_as_over_http(self, app: Cluster, handle, changed):
        body = raw("hello", 8) | changed
        error = httpx.post(f"{app.url}/v1/completions", json=body, timeout=30)
        with pytest.raises(ApiError) as refusal:
            handle.completions.remote(body).result(timeout_s=60)
        mine, theirs = refusal.value, error.json()["error"]
        assert (mine.status, mine.code, mine.param) == (error.status_code, theirs["code"], theirs["param"])
        assert mine.message == theirs["message"]

    def test_a_full_queue_is_a_typed_error_with_the_retry_time(self, app: Cluster, handle):
        with Load(app, LIMIT + MAX_QUEUED):
            wait_until(lambda: app.metric("promiseserve_queue_depth") == MAX_QUEUED, 30, "full queue")
            with pytest.raises(ApiError) as refusal:
                handle.completions.remote(raw("one more", 1)).result(timeout_s=30)
        assert (refusal.value.status, refusal.value.code) == (429, "rejected_full")
        assert refusal.value.retry_after_s is not None
        assert refusal.value.retry_after_s >= 1
        wait_until(app.at_rest, 10, "at rest after the load")


class TestScaling:
    def test_a_growing_queue_starts_a_second_engine(self, app: Cluster):
        assert app.metric("promiseserve_replicas_ready") == 1
        with Load(app, LIMIT + MAX_QUEUED):
            wait_until(lambda: app.metric("promiseserve_replicas_ready") == 2, 180, "second engine", 0.5)
            wait_until(
                lambda: app.metric("promiseserve_leases") == 2 * LIMIT, 30, "leases on both engines", 0.2
            )
        wait_until(app.at_rest, 10, "at rest after the load")


class TestDeath:
    """After TestScaling: two engines."""

    def test_a_dead_engine_core_is_noticed_replaced_and_leaves_nothing(self, app: Cluster):
        before = app.processes("EngineCore")
        assert len(before) == 2
        before[0].kill()
        wait_until(lambda: app.metric("promiseserve_replicas_ready") == 1, 30, "dead engine out of service")
        answer = httpx.post(f"{app.url}/v1/completions", json=raw("still here", 4), timeout=30)
        assert answer.status_code == 200

    def test_a_stream_whose_engine_dies_ends_with_an_error_event(self, app: Cluster):
        body = raw("mid-stream death", LONG, stream=True)
        seen = ""
        with httpx.stream("POST", f"{app.url}/v1/completions", json=body, timeout=60) as response:
            for text in response.iter_text():
                if "data: " not in seen:
                    for replica in app.processes("ServeReplica:llm:Engine"):
                        replica.kill()
                seen += text
        last = [line for line in seen.splitlines() if line.startswith("data: ")][-1]
        assert "error" in json.loads(last.removeprefix("data: "))
        # The client hears of it first.
        wait_until(lambda: app.metric("promiseserve_replicas_ready") == 0, 10, "dead engines out of service")

    def test_killed_replicas_leave_no_process_and_come_back(self, app: Cluster):
        # No engine is there, and none has said yet that it starts: who can wait waits.
        answer = httpx.post(f"{app.url}/v1/completions", json=raw("back", 4), timeout=180)
        assert answer.status_code == 200, answer.text
        assert app.is_ready()
        cores = app.processes("EngineCore")
        parents = {process.ppid() for process in cores}
        assert app.root.pid not in parents, "an engine core outlived its replica"

    def test_a_scheduler_that_dies_is_replaced_and_requests_go_on(self, app: Cluster):
        with Load(app, LIMIT) as load:
            wait_until(lambda: app.metric("promiseserve_leases") >= LIMIT, 20, "engine full")
            # The spare too: then a successor has to start.
            for scheduler in app.processes("ServeReplica:llm:Scheduler"):
                scheduler.kill()
            answer = httpx.post(f"{app.url}/v1/completions", json=raw("after", 4), timeout=60)
            assert answer.status_code == 200
        assert load.cut_off == []
        wait_until(app.at_rest, 30, "at rest with a new scheduler")


def heed_ctrl_c() -> None:
    """In a child: a suite in the background ignores Ctrl-C, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class TestTools:
    """What an operator opens beside it: `/status`, `python -m app top` and `chat`."""

    def start(self, app: Cluster, documented_command: str, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, *documented_command.split()[1:], "--url", app.url, *options]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=REPOSITORY,
            text=True,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            preexec_fn=heed_ctrl_c,
        )

    def test_the_page_shows_the_engine_under_load_and_lives(self, app: Cluster):
        def loads(view: StatusView) -> list[RankLoad]:
            return [one for one in view.ranks if one.busy is not None]

        # Whether one engine is there or two: the queue has started a second before.
        with Load(app, 2 * LIMIT + 3):
            wait_until(lambda: self.view(app).queued >= 3, 30, "a queue on the page")
            wait_until(lambda: loads(self.view(app)), 30, "the load of a rank", every_s=1.0)
            view = self.view(app)
            with httpx.stream("GET", f"{app.url}/status/events", timeout=30) as events:
                lines = events.iter_lines()
                beats = [next(line for line in lines if line.startswith("data: <h1>")) for _ in range(2)]
        assert beats == [f"data: <h1>{MODEL}</h1>"] * 2
        replicas, [tenant] = {one.replica_id: one for one in view.detail.replicas}, view.detail.tenants
        assert tenant.running == sum(one.taken for one in replicas.values())
        assert (sum(tenant.queued), tenant.running) == (view.queued, view.in_flight)
        assert any(one.taken == one.limit == LIMIT for one in replicas.values())
        for load in loads(view):
            assert load.replica_id in replicas
            assert load.rank == 0
            assert 2**20 < load.memory_bytes < load.device_bytes
        page = httpx.get(f"{app.url}/status", timeout=30)
        assert page.status_code == 200
        assert len(page.content) < 100_000

    def test_viewers_that_leave_make_room(self, app: Cluster):
        for _ in range(2 * MAX_VIEWERS):
            with httpx.stream("GET", f"{app.url}/status/events", timeout=30) as events:
                assert events.status_code == 200
                next(events.iter_lines())

    def test_top_shows_it_and_ends_with_ctrl_c(self, app: Cluster):
        command = documented("README.md", "python -m app top")
        once = self.start(app, command, "--once")
        printed, errors = once.communicate(timeout=60)
        assert (once.returncode, errors) == (0, "")
        assert MODEL in printed
        assert "Queue by class" in printed
        terminal, end = pty.openpty()
        live = subprocess.Popen(
            [sys.executable, *command.split()[1:], "--url", app.url],
            cwd=REPOSITORY,
            env=os.environ | {"TERM": "xterm"},
            stdout=end,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=heed_ctrl_c,
        )
        os.close(end)
        shown = b""
        while MODEL.encode() not in shown:
            shown += os.read(terminal, 4096)
        live.send_signal(signal.SIGINT)
        assert (live.wait(30), live.communicate()[1]) == (0, "")
        os.close(terminal)

    def test_chat_streams_and_remembers(self, app: Cluster):
        command = documented("README.md", "python -m app chat")
        chat = self.start(app, command, "--max-tokens", "8")
        printed, errors = chat.communicate("Hello\nAnd then?\n", timeout=60)
        assert (chat.returncode, errors) == (0, "")
        assert printed.count("first token after") == 2

    def test_ctrl_c_stops_an_answer_and_not_the_talk(self, app: Cluster):
        chat = self.start(app, "python -m app chat", "--max-tokens", str(LONG))
        assert chat.stdin is not None
        assert chat.stdout is not None
        chat.stdin.write("Hello\n")
        chat.stdin.flush()
        wait_until(lambda: app.in_engines() == 1, 30, "an answer under way", every_s=0.05)
        chat.send_signal(signal.SIGINT)
        wait_until(app.at_rest, 10, "the answer stopped")
        printed, errors = chat.communicate("Again\n", timeout=60)
        assert (chat.returncode, errors) == (0, "")
        assert "(stopped)" in printed

    def view(self, app: Cluster) -> StatusView:
        return from_json(httpx.get(f"{app.url}/status.json", timeout=30).content)
