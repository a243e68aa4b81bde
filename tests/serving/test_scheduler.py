"""The scheduler's replica as a plain object: calls in, answers out."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.config import ApplicationConfig
from app.contract import EnginePort, Grant, Refusal
from app.flow.outcome import Outcome
from app.flow.ticket import ReplicaReport, Ticket, Usage
from app.serving.scheduler import SchedulerReplica
from tests.fakes import soon

PORT = EnginePort("r1", "127.0.0.1", 8001, "secret")
# Long enough to be waited for, short enough to be waited out.
BRIEF_S = 0.2


def scheduler(**settings: float) -> SchedulerReplica:
    """One lease a replica and a queue of two, unless `settings` say otherwise."""
    bounds = {"requests_per_replica": 1, "max_queued": 2, **settings}
    model = {"name": "tiny", "source": "somebody/tiny"}
    engine = {"device": "cpu", "max_model_len": 64}
    return SchedulerReplica(
        ApplicationConfig.model_validate({"model": model, "engine": engine, "scheduler": bounds})
    )


def ticket(ticket_id: str, priority: int = 0) -> Ticket:
    return Ticket(ticket_id, priority, time.time())


async def report(replica: SchedulerReplica, *leases: str, port: EnginePort = PORT) -> float:
    return await replica.report(ReplicaReport(port.replica_id, frozenset(leases)), port, {})


async def waiting(replica: SchedulerReplica, *tickets: Ticket) -> list[asyncio.Task]:
    """Calls of `acquire` that have been queued."""
    calls = [asyncio.create_task(replica.acquire(ticket)) for ticket in tickets]
    await asyncio.sleep(0)
    assert not any(call.done() for call in calls)
    return calls


async def test_a_ticket_waits_for_an_engine_and_is_granted_with_its_port():
    replica = scheduler()
    [call] = await waiting(replica, ticket("a"))
    assert await report(replica) == 0.0
    grant = await soon(call)
    assert isinstance(grant, Grant)
    assert (grant.engine, grant.queue_wait_s >= 0) == (PORT, True)


async def test_a_report_is_answered_with_the_depth_of_the_queue():
    replica = scheduler()
    await report(replica)
    await soon(replica.acquire(ticket("a")))
    calls = await waiting(replica, ticket("b"), ticket("c"))
    assert await report(replica, "a") == 2.0
    assert (await replica.view()).queued == 2
    await replica.close("a", Outcome.COMPLETED)
    assert isinstance(await soon(calls[0]), Grant)
    assert await report(replica, "b") == 1.0


async def test_a_ticket_that_is_closed_while_it_waits_gets_no_answer_and_no_lease():
    replica = scheduler()
    [call] = await waiting(replica, ticket("a"))
    await replica.close("a", Outcome.CANCELLED)
    assert await soon(call) is None
    await report(replica)
    assert (await replica.view()).in_flight == 0


async def test_a_ticket_that_is_submitted_again_takes_over_the_earlier_wait():
    replica = scheduler()
    same = ticket("a")
    [lost] = await waiting(replica, same)
    [again] = await waiting(replica, same)
    assert await soon(lost) is None
    await report(replica)
    assert isinstance(await soon(again), Grant)
    assert (await replica.view()).in_flight == 1


async def test_a_ticket_whose_grant_was_lost_is_granted_the_same_lease_again():
    replica = scheduler()
    await report(replica)
    same = ticket("a")
    assert (await soon(replica.acquire(same))).engine == (await soon(replica.acquire(same))).engine == PORT
    assert (await replica.view()).in_flight == 1


async def test_a_new_scheduler_knows_the_leases_that_an_engine_reports():
    replica = scheduler()
    await report(replica, "a")
    [call] = await waiting(replica, ticket("b"))
    assert (await soon(replica.acquire(ticket("a")))).engine == PORT
    await replica.close("a", Outcome.COMPLETED)
    assert isinstance(await soon(call), Grant)


async def test_a_full_queue_refuses_the_newcomer_and_makes_room_for_a_more_urgent_one():
    replica = scheduler()
    calls = await waiting(replica, ticket("a"), ticket("b"))
    refusal = await soon(replica.acquire(ticket("c")))
    assert (refusal.outcome, refusal.retry_after_s >= 1) == (Outcome.REJECTED_FULL, True)
    await waiting(replica, ticket("urgent", priority=-1))
    assert (await soon(calls[1])).outcome is Outcome.EVICTED_PREEMPTED
    assert not calls[0].done()


async def test_the_most_urgent_ticket_is_granted_first():
    replica = scheduler()
    later, urgent = await waiting(replica, ticket("a", priority=1), ticket("b", priority=-1))
    await report(replica)
    assert isinstance(await soon(urgent), Grant)
    assert not later.done()


async def test_when_the_last_engine_goes_the_queue_is_refused_and_so_is_what_comes():
    replica = scheduler()
    await report(replica)
    await soon(replica.acquire(ticket("a")))
    [call] = await waiting(replica, ticket("b"))
    await replica.replica_gone("r1")
    assert (await soon(call)).outcome is Outcome.EVICTED_NO_ENGINE
    assert (await soon(replica.acquire(ticket("c")))).outcome is Outcome.REJECTED_NO_ENGINE
    view = await replica.view()
    assert (view.replicas_ready, view.in_flight, view.engines) == (0, 0, ())


async def test_a_ticket_that_waits_too_long_is_refused_by_the_clock_alone():
    replica = scheduler(max_queue_wait_s=BRIEF_S)
    refusal = await soon(replica.acquire(ticket("a")))
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.EVICTED_TIMEOUT


async def test_a_lease_that_no_report_names_expires_and_its_place_is_given_on():
    replica = scheduler(lease_ttl_s=BRIEF_S)
    await report(replica)
    await soon(replica.acquire(ticket("a")))
    [call] = await waiting(replica, ticket("b"))
    assert isinstance(await soon(call), Grant)
    assert 'promiseserve_requests_ended_total{outcome="lease_expired"} 1.0' in (await replica.view()).metrics


async def test_an_unroutable_engine_gets_no_lease_for_a_moment():
    replica = scheduler()
    await report(replica)
    await replica.replica_unroutable("r1")
    await waiting(replica, ticket("a"))
    other = EnginePort("r2", "127.0.0.1", 8002, "secret")
    [call] = await waiting(replica, ticket("b"))
    await report(replica, port=other)
    assert (await replica.view()).in_flight == 1
    assert not call.done()


async def test_a_late_report_of_an_engine_that_has_gone_revives_nothing():
    replica = scheduler()
    await report(replica)
    await replica.replica_gone("r1")
    await report(replica)
    assert (await soon(replica.acquire(ticket("a")))).outcome is Outcome.REJECTED_NO_ENGINE


async def test_what_was_served_is_counted():
    replica = scheduler()
    await report(replica)
    await soon(replica.acquire(ticket("a")))
    await replica.close("a", Outcome.COMPLETED, Usage(3, 40))
    await soon(replica.acquire(ticket("b")))
    await replica.close("b", Outcome.CANCELLED, Usage(3, 2))
    for _ in range(2):
        metrics = (await replica.view()).metrics
        assert "promiseserve_output_tokens_total 42.0" in metrics
        assert 'promiseserve_requests_ended_total{outcome="completed"} 1.0' in metrics
        assert 'promiseserve_requests_ended_total{outcome="cancelled"} 1.0' in metrics
        assert 'promiseserve_queue_wait_seconds_count{class="standard"} 2.0' in metrics


async def test_the_view_names_the_engines_that_can_be_asked_for_their_figures():
    replica = scheduler()
    other = EnginePort("r2", "127.0.0.1", 8002, "secret")
    await report(replica)
    await report(replica, port=other)
    view = await replica.view()
    assert (view.replicas_ready, view.engines) == (2, (PORT, other))
    assert 'promiseserve_replica_leases{replica="r2"} 0.0' in view.metrics


async def test_it_is_healthy_while_its_clock_runs():
    replica = scheduler()
    await replica.check_health()
    clock = next(task for task in asyncio.all_tasks() if "tick" in task.get_coro().__qualname__)
    clock.cancel()
    await asyncio.wait({clock})
    with pytest.raises(RuntimeError, match="the tick task has ended"):
        await replica.check_health()
