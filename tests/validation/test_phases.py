"""The measurements against a server of a few lines: what is sent, what is told, what is given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from app.config import ApplicationConfig
from app.validation import filling
from app.validation.measured import NotMeasured
from app.validation.phases import Durations, measure
from app.validation.state import NotServedError, engines
from app.validation.workload import Target, filling_lengths

WINDOW = 64
# So short that a test is over at once; nothing here is about time.
DURATIONS = Durations(load_s=0.4, filling_s=5.0)
CONFIG = ApplicationConfig.model_validate(
    {
        "model": {"name": "tiny", "source": "embedded:tiny-llama"},
        "engine": {"device": "cpu", "max_model_len": WINDOW, "max_num_seqs": 6},
        "promises": {"prompt_tokens": 8, "output_tokens": 4, "latency_streams": 2, "requests_per_s": 10},
        "open_without_keys": True,
    }
)


class Application:
    """Answers like the application; `places` long requests at a time, more are refused."""

    def __init__(self, places: int = 6) -> None:
        self.places = places
        self.running = 0
        self.preemptions = 0
        self.model = "tiny"
        self.fails = False
        # How it turns every request away, where it does.
        self.refusal: tuple[int, str] | None = None
        self.has_engines = self.has_ranks = True
        self.keys: set[str] = set()
        self.prompts: list[tuple[int, ...]] = []
        self.classes: list[str] = []

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": self.model, "max_model_len": WINDOW}]})

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.text() if self.has_engines else "")

    def text(self) -> str:
        return f"""\
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{replica="a"}} {self.running / 10}
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{replica="a"}} {self.running}
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{{replica="a"}} {self.preemptions}
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{replica="a",block_size="16",num_gpu_blocks="40"}} 1.0
# TYPE promiseserve_replica_limit gauge
promiseserve_replica_limit{{replica="a"}} {self.places}
"""

    async def ranks(self, request: web.Request) -> web.Response:
        if not self.has_ranks:
            return web.json_response({}, status=404)
        rank = {"replica": "a", "rank": 0, "device": "CPU", "memory_bytes": 1, "device_bytes": 10}
        return web.json_response({"ranks": [rank | {"busy_s": 1.0}]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.keys.add(request.headers.get("authorization", ""))
        self.prompts.append(tuple(body["prompt"]))
        long = len(body["prompt"]) == filling_lengths(WINDOW)[0]
        if self.fails:
            return web.json_response({"error": {"code": "engine_error"}}, status=500)
        if self.refusal is not None:
            status, code = self.refusal
            return web.json_response({"error": {"code": code}}, status=status)
        if long:
            self.classes.append(body["service_tier"])
            if self.running >= self.places:
                return web.json_response({"error": {"code": "rejected_full"}}, status=429)
        self.running += 1
        try:
            return await self._stream(request, body["max_tokens"], long)
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request, tokens: int, long: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(tokens):
            await response.write(b"data: " + json.dumps({"choices": [{"text": "x"}]}).encode() + b"\n\n")
            if long:
                # Until its client leaves.
                await asyncio.Event().wait()
        usage = {"choices": [], "usage": {"completion_tokens": tokens, "prompt_tokens": 8}}
        await response.write(b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n")
        return response

    @asynccontextmanager
    async def served(self) -> AsyncIterator[Target]:
        application = web.Application()
        application.router.add_get("/llm/v1/models", self.models)
        application.router.add_get("/llm/metrics", self.metrics)
        application.router.add_get("/llm/ranks", self.ranks)
        application.router.add_post("/llm/v1/completions", self.complete)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        try:
            yield Target(f"http://{host}:{port}", "/llm", "tiny", "secret")
        finally:
            await runner.cleanup()


async def measured(application: Application):
    told: list[str] = []
    async with application.served() as target:
        found = await measure(CONFIG, target, DURATIONS, lambda name, done, word: told.append(name))
    assert list(dict.fromkeys(told)) == ["latency", "throughput", "memory"]
    return found


async def test_all_is_measured_with_the_key_and_no_prompt_twice():
    application = Application()
    found = await measured(application)
    assert found.latency.ttfts_ms
    assert len(found.latency.ttfts_ms) == len(found.latency.tpots_ms)
    assert (found.throughput.offered, len(found.throughput.ended_s)) == (4, 4)
    assert (found.filling.places, found.filling.started, found.filling.kv_tokens) == (6, 6, 640)
    assert (found.filling.peak_running, found.filling.peak_kv_use) == (6, 0.6)
    assert found.filling.ended_because == "every place was taken"
    assert found.filling.request_tokens == WINDOW
    assert found.ranks_full[0].name == "a/0"
    assert len(found.ranks_loaded) >= 2
    assert found.failures == {}
    assert application.keys == {"Bearer secret"}
    assert len(set(application.prompts)) == len(application.prompts)
    assert application.running == 0


async def test_what_one_class_is_refused_the_next_more_urgent_one_tries():
    application = Application(places=4)
    found = await measured(application)
    assert found.filling.started == 4
    assert found.filling.ended_because == (
        "one more was refused (429 rejected_full); of the 6 places the scheduler had closed 2 by then"
    )
    assert list(dict.fromkeys(application.classes)) == ["batch", "standard", "interactive"]
    assert found.failures == {}


async def test_what_does_not_begin_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(filling, "STALL_S", 0.05)
    application = Application()

    async def never(*_: object) -> web.StreamResponse:
        return await asyncio.Event().wait()

    stream = application._stream
    application._stream = lambda request, tokens, long: (never if long else stream)(request, tokens, long)
    found = await measured(application)
    assert found.filling.started == 0
    assert found.filling.ended_because.startswith("nothing more began to answer within")


async def test_a_failure_is_told_with_its_phase():
    application = Application()
    application.fails = True
    found = await measured(application)
    assert found.latency.ttfts_ms == ()
    assert found.throughput.ended_s == ()
    assert set(found.failures) == {
        f"{name} failed 500 engine_error" for name in ("latency", "throughput", "memory")
    }


@pytest.mark.parametrize("code", ["rejected_no_engine", "evicted_no_engine", "engine_lost"])
async def test_an_application_without_an_engine_fails(code: str):
    application = Application()
    application.refusal = (503, code)
    found = await measured(application)
    assert set(found.failures) == {
        f"{name} failed 503 {code}" for name in ("latency", "throughput", "memory")
    }
    assert (found.latency.refused, found.throughput.refusals) == (0, {})


async def test_a_refusal_for_the_load_is_no_failure():
    application = Application()
    application.refusal = (429, "rejected_deadline")
    found = await measured(application)
    assert found.failures == {}
    assert found.latency.refused > 0
    assert found.throughput.refusals == {"429 rejected_deadline": 4}


async def test_what_the_application_does_not_tell_is_not_measured():
    application = Application()
    application.has_ranks = application.has_engines = False
    async with application.served() as target:
        found = await measure(CONFIG, target, DURATIONS, lambda *_: None)
    assert found.filling == NotMeasured("no engine tells its metrics")
    assert isinstance(found.ranks_loaded, NotMeasured)
    assert "/ranks answers 404" in found.ranks_loaded.reason


async def test_without_metrics_the_rest_is_measured():
    application = Application()

    async def private(_: web.Request) -> web.Response:
        return web.Response(status=401, text="a key is needed")

    application.metrics = private
    async with application.served() as target:
        found = await measure(CONFIG, target, DURATIONS, lambda *_: None)
    assert found.latency.ttfts_ms
    assert found.filling == NotMeasured("the metrics can't be read: /metrics answers 401: a key is needed")


async def test_another_model_is_not_measured():
    application = Application()
    application.model = "other"
    async with application.served() as target:
        with pytest.raises(NotServedError, match=r"serves .'other': 64., not tiny with 64 tokens"):
            await measure(CONFIG, target, DURATIONS, lambda *_: None)


async def test_what_is_no_application_is_not_measured():
    application = Application()

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>")

    application.models = page
    async with application.served() as target:
        with pytest.raises(NotServedError, match=r"/llm: /v1/models does not answer as OpenAI's"):
            await measure(CONFIG, target, DURATIONS, lambda *_: None)


async def test_nobody_there():
    with pytest.raises(NotServedError):
        await measure(CONFIG, Target("http://127.0.0.1:1", "", "tiny", ""), DURATIONS, lambda *_: None)


def test_engines_of_an_empty_page():
    found = engines("")
    assert (found.count, found.kv_use, found.running, found.kv_tokens) == (0, 0.0, 0, None)


def test_the_smallest_cache_and_the_fullest_count():
    text = Application().text()
    other = text.replace('replica="a"', 'replica="b"').replace('"40"', '"None"').replace(" 0.0", " 0.7")
    samples = [line for line in other.splitlines() if not line.startswith("#")]
    lines = text.splitlines()
    for sample in samples:
        name = sample.split("{")[0]
        index = max(i for i, line in enumerate(lines) if line.startswith(name))
        lines.insert(index + 1, sample)
    found = engines("\n".join(lines) + "\n")
    assert (found.count, found.kv_use, found.kv_tokens, found.limit) == (2, 0.7, 640, 12)
