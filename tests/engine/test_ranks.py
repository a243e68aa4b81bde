"""What a worker says of itself, and how often it is asked."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace

import pytest

from app.engine.ranks import RankProbe, RankStates
from tests.fakes import soon


class Runner:
    """In the place of vLLM's model runner."""

    def execute_model(self, amount: int) -> int:
        return sum(range(amount))

    def sample_tokens(self, grammar: object) -> object:
        return grammar


class Worker(RankProbe):
    def __init__(self, device: str = "cpu") -> None:
        self.rank = 3
        self.device = SimpleNamespace(type=device)
        self.model_runner = Runner()


def failing(*_: object) -> None:
    raise RuntimeError("NVML")


def cuda(monkeypatch: pytest.MonkeyPatch, **calls: object) -> None:
    """A torch that knows one GPU, but for what is given otherwise."""
    known = {
        "mem_get_info": lambda _: (30, 80),
        "get_device_properties": lambda _: SimpleNamespace(uuid="u1"),
        "utilization": lambda _: 50,
    }
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(**{**known, **calls})))


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


def test_a_gpus_rank_tells_its_memory_and_its_use(monkeypatch):
    cuda(monkeypatch)
    state = Worker("cuda").rank_state()
    assert (state["rank"], state["memory_bytes"], state["device_bytes"]) == (3, 50, 80)
    assert state["utilisation"] == 0.5


def test_a_gpu_without_the_figure_of_its_use_tells_the_rest(monkeypatch):
    cuda(monkeypatch, utilization=failing)
    state = Worker("cuda").rank_state()
    assert state["memory_bytes"] == 50
    assert "utilisation" not in state


def test_a_rank_that_can_not_tell_answers_all_the_same(monkeypatch):
    """vLLM would leave the other ranks' answers to be taken for those to the next step."""
    cuda(monkeypatch, mem_get_info=failing)
    assert Worker("cuda").rank_state() is None


async def test_those_who_ask_within_a_second_share_one_answer():
    asked = []

    async def collective_rpc(method: str) -> list[dict[str, int] | None]:
        asked.append(method)
        return [{"rank": 0}, None]

    states = RankStates(SimpleNamespace(collective_rpc=collective_rpc))
    answers = await asyncio.gather(states.get(), states.get(), states.get())
    assert answers == [[{"rank": 0}]] * 3
    assert asked == ["rank_state"]
    assert json.loads((await states.answer(None)).body) == {"ranks": [{"rank": 0}]}


async def test_who_waits_no_longer_leaves_the_question_to_those_who_come_after():
    """A second one beside it, or one that is given up, would leave answers that nobody reads."""
    asked, answer = [], asyncio.Event()

    async def collective_rpc(method: str) -> list[dict[str, int]]:
        asked.append(method)
        await answer.wait()
        return [{"rank": 0}]

    engine = SimpleNamespace(collective_rpc=collective_rpc)
    states = RankStates(engine, timeout_s=0.0)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await states.get()
    states._timeout_s = 600.0
    waiting = asyncio.ensure_future(states.get())
    await asyncio.sleep(0)
    answer.set()
    assert await soon(waiting) == [{"rank": 0}]
    assert asked == ["rank_state"]


async def test_an_engine_that_fails_is_asked_again(monkeypatch):
    monkeypatch.setattr("app.engine.ranks.KEEP_S", 0.0)
    answers = [RuntimeError("dead"), [{"rank": 0}]]

    async def collective_rpc(method: str) -> list[dict[str, int]]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    states = RankStates(SimpleNamespace(collective_rpc=collective_rpc))
    with pytest.raises(RuntimeError, match="dead"):
        await states.get()
    assert await states.get() == [{"rank": 0}]
