"""The application is deleted under load. The last test of the package: nothing is left of it."""

from __future__ import annotations

import threading

import httpx
import pytest
from ray import serve

from benchmarks.chaos.cell import Application
from benchmarks.chaos.parts import named
from tests.integration.cluster import Cluster, wait_until

pytestmark = [pytest.mark.engine, pytest.mark.long]

# Streams that outlast the second or two after which the scheduler knows, and end within the drain.
LONG = 400


class Clients:
    """Requests in threads; each answer is a status, a code, and whether its end was said."""

    def __init__(self, application: Application, count: int, tokens: int) -> None:
        self._url = f"{application.url}/v1/completions"
        self._body = {"model": application.model, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        self.answers: list[httpx.Response | None] = [None] * count
        self.threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def _ask(self, number: int) -> None:
        self.answers[number] = httpx.post(self._url, json=self._body | {"prompt": f"{number}"}, timeout=120)

    def join(self) -> list[httpx.Response]:
        for thread in self.threads:
            thread.join(150)
        assert all(answer is not None for answer in self.answers)
        return self.answers  # type: ignore[return-value]


def queued(application: Application) -> int:
    return httpx.get(f"{application.url}/ready", timeout=10).json()["queued"]


def test_streams_finish_what_waits_is_told_to_come_back_and_nothing_is_left(
    application: Application, cluster: Cluster
):
    # A limit begins below the places of its engine, and grows with what it is given.
    for _ in range(20):
        if cluster.metric("promiseserve_replica_limit") >= application.places:
            break
        Clients(application, 2 * application.places, LONG).join()
    running = Clients(application, application.places, LONG)
    wait_until(
        lambda: cluster.metric("promiseserve_leases") == application.places, 30, "places that are all taken"
    )
    waiting = Clients(application, application.places, 4)
    wait_until(lambda: queued(application) == application.places, 30, "a queue")
    serve.delete("llm", _blocking=False)
    for answer in waiting.join():
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] in ("evicted_draining", "rejected_draining")
        assert int(answer.headers["retry-after"]) >= 1
    for answer in running.join():
        assert answer.status_code == 200
        assert answer.text.rstrip().endswith("data: [DONE]")
        assert '"error"' not in answer.text
    for part in ("engine-core", "engine-replica", "gateway", "scheduler"):
        wait_until(lambda part=part: not named(application.processes(), part), 60, f"no {part} left")
