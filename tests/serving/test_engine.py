"""The engine's replica as a plain object, without an engine: what it tells the scheduler of itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace

import pytest

from app.contract import EnginePort, EngineReport, FirstToken
from app.engine.leases import LiveLeases
from app.flow.ticket import ReplicaReport
from app.serving import engine
from app.serving.engine import EngineReplica
from tests.fakes import soon


class Plain(EngineReplica):
    """Nobody stops it."""

    def __del__(self) -> None:
        pass


class Scheduler:
    """A handle: `heard` is what has been told."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[object, ...]] = asyncio.Queue()

    def __getattr__(self, method: str) -> SimpleNamespace:
        async def remote(*arguments: object) -> None:
            self.heard.put_nowait((method, *arguments))

        return SimpleNamespace(remote=remote)

    def all_heard(self) -> list[tuple[object, ...]]:
        return [self.heard.get_nowait() for _ in range(self.heard.qsize())]


def started(
    monkeypatch, scheduler: Scheduler, start: Callable[[], Awaitable[object]], timeout_s: float = 600.0
) -> tuple[Plain, Awaitable]:
    """A replica, and its start, which ends as `start` does."""
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="r1"))
    monkeypatch.setattr(engine.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(engine.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address=""))
    monkeypatch.setattr(engine.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(engine, "point_at_cluster", lambda address: None)
    monkeypatch.setattr(engine, "get_current_placement_group", lambda: None)
    monkeypatch.setattr(engine.models, "prepare", lambda source, progress: source)
    monkeypatch.setattr(engine.EngineServer, "start", lambda *_, **__: start())
    config = SimpleNamespace(
        model=SimpleNamespace(source="tiny"), engine=SimpleNamespace(start_timeout_s=timeout_s)
    )
    replica = Plain.__new__(Plain)
    return replica, replica.__init__(config, scheduler)


async def test_an_engine_that_does_not_start_says_so(monkeypatch):
    async def start():
        raise RuntimeError("no memory")

    scheduler = Scheduler()
    _, starting = started(monkeypatch, scheduler, start)
    with pytest.raises(RuntimeError, match="no memory"):
        await starting
    assert scheduler.all_heard() == [("starting", "r1"), ("replica_gone", "r1")]


async def test_an_engine_that_is_stopped_while_it_starts_says_so(monkeypatch):
    scheduler = Scheduler()
    replica, starting = started(monkeypatch, scheduler, asyncio.Event().wait)
    task = asyncio.ensure_future(starting)
    assert await soon(scheduler.heard.get()) == ("starting", "r1")
    await soon(EngineReplica.__del__(replica))
    assert await soon(scheduler.heard.get()) == ("replica_gone", "r1")
    task.cancel()
    await asyncio.wait({task})


async def test_a_start_is_bounded_by_what_the_configuration_says(monkeypatch):
    bounds = []

    async def start():
        raise RuntimeError("no memory")

    def bounded(timeout_s: float) -> contextlib.AbstractContextManager[None]:
        bounds.append(timeout_s)
        return contextlib.nullcontext()

    monkeypatch.setattr(engine, "bounded_start", bounded)
    _, starting = started(monkeypatch, Scheduler(), start, timeout_s=7.0)
    with pytest.raises(RuntimeError, match="no memory"):
        await starting
    assert bounds == [7.0]


class Line:
    """A connection to the scheduler that is gone for the next `deaf` calls."""

    def __init__(self, deaf: int) -> None:
        self.heard: asyncio.Queue[list[str]] = asyncio.Queue()
        self.reports: list[EngineReport] = []
        self._deaf = deaf

    def _hear(self) -> None:
        if self._deaf:
            self._deaf -= 1
            raise ConnectionError

    async def first_tokens(self, news: Sequence[FirstToken]) -> None:
        self._hear()
        self.heard.put_nowait([one.ticket_id for one in news])

    async def report(self, report: EngineReport) -> None:
        self._hear()
        self.reports.append(report)


async def telling(line: Line) -> tuple[LiveLeases, asyncio.Task[None]]:
    """Leases of an engine whose first tokens are told."""
    replica = Plain.__new__(Plain)
    leases = LiveLeases()
    replica._server, replica._line = SimpleNamespace(leases=leases), line
    return leases, asyncio.ensure_future(replica._tell_first_tokens())


async def test_first_tokens_that_nobody_has_heard_are_told_again():
    line = Line(deaf=2)
    leases, task = await telling(line)
    leases.attach("a", 0).tokens()
    assert await soon(line.heard.get()) == ["a"]
    leases.attach("b", 0).tokens()
    assert await soon(line.heard.get()) == ["b"]
    task.cancel()


async def test_of_what_has_ended_meanwhile_nothing_is_told_again():
    line = Line(deaf=1)
    leases, task = await telling(line)
    for lease_id in ("a", "b"):
        leases.attach(lease_id, 0).tokens()
    leases.end("a")
    assert await soon(line.heard.get()) == ["b"]
    task.cancel()


async def test_a_report_says_what_runs_and_whether_anybody_heard_it():
    line = Line(deaf=1)
    replica = Plain.__new__(Plain)
    leases, vitals = LiveLeases(), SimpleNamespace(metrics=lambda: None)
    leases.attach("a", 0).tokens()
    replica._server = SimpleNamespace(leases=leases, vitals=vitals, host="h", port=1, secret="s")
    replica._replica_id, replica._draining, replica._line = "r1", True, line
    assert not await replica._report()
    assert await replica._report()
    [report] = line.reports
    assert report.state == ReplicaReport("r1", frozenset({"a"}), draining=True)
    assert report.port == EnginePort("r1", "h", 1, "s")
    assert report.output_tokens == leases.output_tokens()
