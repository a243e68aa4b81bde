"""Calls over Serve's handle: whose failures are whose."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import grpc
import pytest
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from app.contract import SchedulerAddress
from app.serving import scheduler_handle
from app.serving.scheduler_handle import answered, tell, who_leads

NO_METADATA = grpc.aio.Metadata()
AWAY = [
    RayError(),
    RayServeException("gone"),
    grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, NO_METADATA, NO_METADATA),
    TimeoutError(),
]
FAILED = [KeyError("as gRPC brings it"), RayTaskError("report", "", KeyError("as Ray brings it"))]


def method(answer: object) -> SimpleNamespace:
    """One that answers so, or fails so."""

    async def remote(*_: object) -> object:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return SimpleNamespace(remote=remote)


def of_type(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("error", AWAY, ids=of_type)
async def test_a_scheduler_that_is_away_is_a_connection_that_is_missing(error: Exception, caplog):
    with pytest.raises(ConnectionError):
        await answered(method(error).remote())
    with pytest.raises(ConnectionError):
        await who_leads(SimpleNamespace(address=method(error)))
    await tell(method(error), "r1")
    assert not caplog.records


@pytest.mark.parametrize("error", FAILED, ids=of_type)
async def test_a_scheduler_that_fails_is_heard_of_and_ends_no_engine(error: Exception, caplog):
    with pytest.raises(type(error)):
        await answered(method(error).remote())
    with pytest.raises(ConnectionError):
        await who_leads(SimpleNamespace(address=method(error)))
    await tell(method(error), "r1")
    assert [record.getMessage() for record in caplog.records] == [
        "The scheduler failed on where it listens",
        "The scheduler failed on what engine r1 told it",
    ]


async def test_no_call_waits_for_ever(monkeypatch):
    monkeypatch.setattr(scheduler_handle, "TIMEOUT_S", 0.01)
    with pytest.raises(ConnectionError, match=r"within 0\.01 s"):
        await answered(asyncio.Event().wait())


async def test_who_leads_says_where_it_listens():
    address = SchedulerAddress("10.0.0.1", 1, "secret")
    assert await who_leads(SimpleNamespace(address=method(address))) == address


async def test_who_is_stopped_while_it_tells_stops():
    with pytest.raises(asyncio.CancelledError):
        await tell(method(asyncio.CancelledError()), "r1")
