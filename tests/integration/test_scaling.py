"""A real application sleeps, wakes, grows under a step of load, shrinks, is updated: nothing is lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time

import httpx
import pytest
from ray import serve

from tests.integration.cluster import Cluster, tiny_llama, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.long]

MODEL = "tiny-llama"
LIMIT = 4
# Nobody is refused for a wait: what is counted here is what gets lost.
PATIENT = [{"name": "standard", "boost_s": 0, "min_share": 0.0, "ttft_budget_s": 300}]
# Over it, and Serve has been told after this.
DECIDED_WITHIN_S = 3.0
TARGET_QUEUE_DEPTH = 4
REQUESTS = 200
READY_WITHIN_S = 120

SETTINGS = {
    **tiny_llama(max_num_seqs=LIMIT),
    "scheduler": {"max_queue_wait_s": 300, "engine_start_s": 40},
    "flow": {"classes": PATIENT, "limit": {"enabled": False}},
    "gateway": {"replicas": 2},
    "replicas": {
        "min": 0,
        "max": 2,
        "scale_on": "queue",
        "target_queue_depth": TARGET_QUEUE_DEPTH,
        "downscale_delay_s": 15,
        "drain_s": 60,
    },
}


@pytest.fixture(scope="module")
def app(cluster: Cluster) -> Cluster:
    cluster.deploy("smollm2-cpu.yaml", **SETTINGS)
    return cluster


def engines(*states: str) -> int:
    """Engine replicas that Serve has in one of these states."""
    deployments = serve.status().applications["llm"].deployments
    return sum(deployments["Engine"].replica_states.get(state, 0) for state in states)


async def ask(http: httpx.AsyncClient, number: int, tokens: int) -> str:
    """`complete`, or what went wrong."""
    body = {"model": MODEL, "prompt": f"{number} ships", "max_tokens": tokens, "ignore_eos": True}
    try:
        answer = await http.post("/v1/completions", json=body)
    except httpx.HTTPError as error:
        return repr(error)
    if answer.status_code != 200:
        return answer.text
    return "complete" if answer.json()["usage"]["completion_tokens"] == tokens else answer.text


async def ask_many(url: str, requests: int, at_once: int, tokens: int, until=lambda: True) -> list[str]:
    """At least `requests` answers, `at_once` at a time, and further ones until the condition holds."""
    results: list[str] = []

    async def client(http: httpx.AsyncClient) -> None:
        while len(results) < requests or not until():
            results.append(await ask(http, len(results), tokens))

    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        await asyncio.gather(*(client(http) for _ in range(at_once)))
    return results


def in_background(*arguments, **named) -> concurrent.futures.Future[list[str]]:
    pool = concurrent.futures.ThreadPoolExecutor(1)
    return pool.submit(lambda: asyncio.run(ask_many(*arguments, **named)))


def test_1_the_first_request_wakes_an_engine_and_waits_for_it(app: Cluster):
    assert engines("RUNNING", "STARTING") == 0
    assert asyncio.run(ask_many(app.url, 1, 1, 8)) == ["complete"]
    # It may have answered before Serve has looked at it.
    wait_until(lambda: engines("RUNNING") == 1, 5, "an engine that runs")
    assert app.metric("promiseserve_replicas_desired") == 1


def test_2_a_queue_that_grows_has_a_second_engine_started_within_three_seconds(app: Cluster):
    load = in_background(app.url, 60, 24, 200, until=lambda: engines("RUNNING") == 2)
    depth = lambda: app.metric("promiseserve_queue_depth")  # noqa: E731
    wait_until(lambda: depth() > TARGET_QUEUE_DEPTH, 30, "a queue", every_s=0.02)
    took_s = wait_until(lambda: engines("STARTING", "RUNNING") == 2, 30, "two engines", every_s=0.05)
    print(f"decided after {took_s:.2f} s")
    assert took_s <= DECIDED_WITHIN_S
    wait_until(lambda: engines("RUNNING") == 2, READY_WITHIN_S, "both ready", every_s=0.2)
    assert set(load.result(timeout=300)) == {"complete"}


def test_3_nothing_is_lost_while_an_engine_is_taken_away(app: Cluster):
    wait_until(lambda: engines("RUNNING") == 2, READY_WITHIN_S, "two engines to begin with")
    results = asyncio.run(
        ask_many(app.url, REQUESTS, 2, 30, until=lambda: engines("RUNNING", "STOPPING") == 1)
    )
    assert len(results) >= REQUESTS
    assert [one for one in results if one != "complete"] == []


def test_4_nothing_is_lost_while_a_changed_configuration_is_rolled_out(app: Cluster):
    before = {process.pid for process in app.engine_processes()}
    load = in_background(
        app.url,
        REQUESTS,
        4,
        30,
        until=lambda: engines("RUNNING") > 0 and not before & {p.pid for p in app.engine_processes()},
    )
    time.sleep(1.0)
    app.update("smollm2-cpu.yaml", **SETTINGS | {"scheduler": SETTINGS["scheduler"] | {"max_queued": 300}})
    results = load.result(timeout=300)
    assert len(results) >= REQUESTS
    assert [one for one in results if one != "complete"] == []
