"""What a worker says of itself, and how often it is asked."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from app.engine.ranks import RankProbe, RankStates


class Runner:
    """In the place of vLLM's model runner."""

    def execute_model(self, amount: int) -> int:
        return sum(range(amount))

    def sample_tokens(self, grammar: object) -> object:
        return grammar


class Worker(RankProbe):
    def __init__(self) -> None:
        self.rank = 3
        self.device = SimpleNamespace(type="cpu")
        self.model_runner = Runner()


def test_a_cpus_rank_tells_its_memory_and_counts_from_the_first_look():
    worker = Worker()
    worker.model_runner.execute_model(1000)
    first = worker.rank_state()
    assert (first["rank"], first["busy_s"]) == (3, 0.0)
    assert 0 < first["memory_bytes"] < first["device_bytes"]
    assert worker.model_runner.execute_model(200_000) == sum(range(200_000))
    assert worker.model_runner.sample_tokens("all") == "all"
    assert worker.rank_state()["busy_s"] > 0.0


def test_a_step_that_fails_is_counted_and_still_fails():
    worker = Worker()
    worker.rank_state()
    with pytest.raises(TypeError):
        worker.model_runner.execute_model("much")
    assert worker.rank_state()["busy_s"] > 0.0


async def test_those_who_ask_within_a_second_share_one_answer():
    asked = []

    async def collective_rpc(method: str, **_: float) -> list[dict[str, int]]:
        asked.append(method)
        return [{"rank": 0}]

    states = RankStates(SimpleNamespace(collective_rpc=collective_rpc))
    answers = await asyncio.gather(states.get(), states.get(), states.get())
    assert answers == [[{"rank": 0}]] * 3
    assert asked == ["rank_state"]
    assert json.loads((await states.answer(None)).body) == {"ranks": [{"rank": 0}]}
