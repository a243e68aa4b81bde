"""The scheduler's replica as a plain object: calls in, answers out."""

from __future__ import annotations

import asyncio
import pickle
import time
from dataclasses import replace
from types import SimpleNamespace

import aiohttp
import pytest

from app.config import ApplicationConfig
from app.contract import (
    SECRET_HEADER,
    Closing,
    EnginePort,
    EngineReport,
    FirstToken,
    Grant,
    Refusal,
    Reply,
)
from app.flow.autoscale import Reason
from app.flow.outcome import Outcome
from app.flow.ticket import EngineMetrics, ReplicaReport, Ticket, Usage
from app.serving.scheduler import SchedulerReplica, limits
from app.serving.scheduler_port import GATEWAY_HEADER
from tests.fakes import FakeEngine, soon

PORT = EnginePort("r1", "127.0.0.1", 8001, "secret")
# Long enough to be waited for, short enough to be waited out.
BRIEF_S = 0.2


class Plain(SchedulerReplica):
    """Nobody stops it."""

    def __del__(self) -> None:
        pass


def scheduler(
    flow: dict[str, object] | None = None, replicas: dict[str, object] | None = None, **settings: float
) -> SchedulerReplica:
    """One lease a replica and a queue of two, unless `settings` say otherwise."""
    times = {name: settings.pop(name) for name in ("lease_ttl_s", "replica_ttl_s") if name in settings}
    bounds = {"requests_per_replica": 1, "max_queued": 2, **settings}
    model = {"name": "tiny", "source": "somebody/tiny"}
    engine = {"device": "cpu", "max_model_len": 64}
    sections = {"model": model, "engine": engine, "scheduler": bounds, "flow": flow or {}}
    sections |= {"replicas": replicas or {}, "open_without_keys": True}
    config = ApplicationConfig.model_validate(sections)
    # Shorter than anybody may set them.
    brief = config.scheduler.model_copy(update=times)
    return Plain(config.model_copy(update={"scheduler": brief}))


def ticket(ticket_id: str, priority: int = 0) -> Ticket:
    return Ticket(ticket_id, priority, time.time())


async def report(replica: SchedulerReplica, *leases: str, port: EnginePort = PORT) -> None:
    tell(replica, ReplicaReport(port.replica_id, frozenset(leases)), port)


def tell(
    replica: SchedulerReplica,
    state: ReplicaReport,
    port: EnginePort = PORT,
    output_tokens: dict[str, int] | None = None,
) -> None:
    """An engine's report: it has asked before where to."""
    replica._begin()
    replica.report(EngineReport(state, port, output_tokens or {}))


def close(replica: SchedulerReplica, ticket_id: str, outcome: Outcome, usage: Usage | None = None) -> None:
    replica.close(Closing(ticket_id, outcome, usage))


class Pending:
    """One ticket's inbox, and its answer."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def put(self, answer: tuple[str, Reply]) -> None:
        self.answer.set_result(answer[1])


def acquire(replica: SchedulerReplica, ticket: Ticket) -> asyncio.Future[Reply]:
    pending = Pending()
    replica.submit(ticket, pending)
    return pending.answer


async def begin(replica: SchedulerReplica) -> None:
    """As the first call does that reaches it."""
    await replica.address()


def waiting(replica: SchedulerReplica, *tickets: Ticket) -> list[asyncio.Future[Reply]]:
    """Answers of those that have been queued."""
    answers = [acquire(replica, ticket) for ticket in tickets]
    assert not any(answer.done() for answer in answers)
    return answers


async def shown(replica: SchedulerReplica, figure: str) -> None:
    """Until the clock alone has brought it about."""
    for _ in range(250):
        if figure in (metrics := (await replica.view()).metrics):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(metrics)


async def test_a_ticket_waits_for_an_engine_and_is_granted_with_its_port():
    replica = scheduler()
    [call] = waiting(replica, ticket("a"))
    await report(replica)
    grant = await soon(call)
    assert isinstance(grant, Grant)
    assert (grant.engine, grant.queue_wait_s >= 0) == (PORT, True)


async def test_the_queue_is_seen_as_it_is():
    replica = scheduler()
    await report(replica)
    await soon(acquire(replica, ticket("a")))
    calls = waiting(replica, ticket("b"), ticket("c"))
    await report(replica, "a")
    assert (await replica.view()).queued == 2
    close(replica, "a", Outcome.COMPLETED)
    assert isinstance(await soon(calls[0]), Grant)
    await report(replica, "b")
    assert (await replica.view()).queued == 1


async def test_a_ticket_that_is_closed_while_it_waits_gets_no_answer_and_no_lease():
    replica = scheduler()
    [call] = waiting(replica, ticket("a"))
    close(replica, "a", Outcome.CANCELLED)
    await report(replica)
    assert not call.done()
    assert (await replica.view()).in_flight == 0


async def test_a_ticket_that_is_submitted_again_takes_over_the_earlier_wait():
    replica = scheduler()
    same = ticket("a")
    [lost] = waiting(replica, same)
    [again] = waiting(replica, same)
    await report(replica)
    assert isinstance(await soon(again), Grant)
    assert not lost.done()
    assert (await replica.view()).in_flight == 1


async def test_a_ticket_whose_grant_was_lost_is_granted_the_same_lease_again():
    replica = scheduler()
    await report(replica)
    same = ticket("a")
    assert (await soon(acquire(replica, same))).engine == (await soon(acquire(replica, same))).engine == PORT
    assert (await replica.view()).in_flight == 1


async def test_a_new_scheduler_knows_the_leases_that_an_engine_reports():
    replica = scheduler()
    await report(replica, "a")
    [call] = waiting(replica, ticket("b"))
    assert (await soon(acquire(replica, ticket("a")))).engine == PORT
    close(replica, "a", Outcome.COMPLETED)
    assert isinstance(await soon(call), Grant)


async def test_a_full_queue_refuses_the_newcomer_and_makes_room_for_a_more_urgent_one():
    replica = scheduler()
    calls = waiting(replica, ticket("a"), ticket("b"))
    refusal = await soon(acquire(replica, ticket("c")))
    assert (refusal.outcome, refusal.retry_after_s >= 1) == (Outcome.REJECTED_FULL, True)
    waiting(replica, ticket("urgent", priority=-1))
    assert (await soon(calls[1])).outcome is Outcome.EVICTED_PREEMPTED
    assert not calls[0].done()


async def test_the_most_urgent_ticket_is_granted_first():
    replica = scheduler()
    later, urgent = waiting(replica, ticket("a", priority=1), ticket("b", priority=-1))
    await report(replica)
    assert isinstance(await soon(urgent), Grant)
    assert not later.done()


async def test_when_the_last_engine_goes_the_queue_is_refused_and_so_is_what_comes():
    replica = scheduler(replica_ttl_s=BRIEF_S)
    await begin(replica)
    await asyncio.sleep(2 * BRIEF_S)
    await report(replica)
    await soon(acquire(replica, ticket("a")))
    [call] = waiting(replica, ticket("b"))
    await replica.replica_gone("r1")
    assert (await soon(call)).outcome is Outcome.EVICTED_NO_ENGINE
    assert (await soon(acquire(replica, ticket("c")))).outcome is Outcome.REJECTED_NO_ENGINE
    view = await replica.view()
    assert (view.replicas_ready, view.in_flight, view.engines) == (0, 0, ())


async def test_who_can_wait_for_the_last_engines_successor_does():
    replica = scheduler(engine_start_s=5.0)
    await report(replica)
    await soon(acquire(replica, ticket("a")))
    [call] = waiting(replica, ticket("b"))
    for _ in range(2):  # Several gateways may say so.
        await replica.replica_gone("r1")
    [late] = waiting(replica, ticket("c"))
    await replica.starting("r2")
    assert "promiseserve_replicas_starting 1.0" in (await replica.view()).metrics
    await report(replica, port=EnginePort("r2", "127.0.0.1", 8002, "secret"))
    assert isinstance(await soon(call), Grant)
    assert not late.done()


async def test_an_engine_that_falls_silent_has_a_successor_too_expected_once():
    replica = scheduler(engine_start_s=5.0, replica_ttl_s=BRIEF_S)
    await report(replica)
    await soon(acquire(replica, ticket("a")))
    [call] = waiting(replica, ticket("b"))
    await shown(replica, "promiseserve_replicas_starting 1.0")
    assert not call.done()
    # Its first report alone: what it said when it began was lost.
    await report(replica, port=EnginePort("r2", "127.0.0.1", 8002, "secret"))
    assert isinstance(await soon(call), Grant)
    assert "promiseserve_replicas_starting 0.0" in (await replica.view()).metrics


async def test_an_application_that_falls_asleep_expects_no_engine():
    replica = scheduler(replicas=SLEEPER)
    await report(replica)
    await replica.replica_gone("r1")
    assert "promiseserve_replicas_starting 0.0" in (await replica.view()).metrics


async def test_a_ticket_that_waits_too_long_is_refused_by_the_clock_alone():
    replica = scheduler(max_queue_wait_s=BRIEF_S)
    await report(replica)
    await soon(acquire(replica, ticket("a")))
    refusal = await soon(acquire(replica, ticket("b")))
    assert isinstance(refusal, Refusal)
    assert refusal.outcome is Outcome.EVICTED_TIMEOUT


async def test_a_lease_that_no_report_names_expires_and_its_place_is_given_on():
    replica = scheduler(lease_ttl_s=BRIEF_S)
    await report(replica)
    await soon(acquire(replica, ticket("a")))
    [call] = waiting(replica, ticket("b"))
    assert isinstance(await soon(call), Grant)
    metrics = (await replica.view()).metrics
    assert 'promiseserve_requests_ended_total{class="standard",outcome="lease_expired"} 1.0' in metrics


async def test_an_unroutable_engine_gets_no_lease_for_a_moment():
    replica = scheduler()
    await report(replica)
    await replica.replica_unroutable("r1")
    waiting(replica, ticket("a"))
    other = EnginePort("r2", "127.0.0.1", 8002, "secret")
    [call] = waiting(replica, ticket("b"))
    await report(replica, port=other)
    assert (await replica.view()).in_flight == 1
    assert not call.done()


async def test_a_late_report_of_an_engine_that_has_gone_revives_nothing():
    replica = scheduler()
    await report(replica)
    await replica.replica_gone("r1")
    await report(replica)
    waiting(replica, ticket("a"))
    assert (await replica.view()).replicas_ready == 0


async def test_what_was_served_is_counted():
    replica = scheduler()
    await report(replica)
    await soon(acquire(replica, ticket("a")))
    close(replica, "a", Outcome.COMPLETED, Usage(3, 40))
    await soon(acquire(replica, ticket("b")))
    close(replica, "b", Outcome.CANCELLED, Usage(3, 2))
    for _ in range(2):
        metrics = (await replica.view()).metrics
        assert "promiseserve_output_tokens_total 42.0" in metrics
        assert 'promiseserve_requests_ended_total{class="standard",outcome="completed"} 1.0' in metrics
        assert 'promiseserve_requests_ended_total{class="standard",outcome="cancelled"} 1.0' in metrics
        assert 'promiseserve_queue_wait_seconds_count{class="standard"} 2.0' in metrics


async def test_the_view_names_the_engines_that_can_be_asked_for_their_figures():
    replica = scheduler()
    other = EnginePort("r2", "127.0.0.1", 8002, "secret")
    await report(replica)
    await report(replica, port=other)
    view = await replica.view()
    assert (view.replicas_ready, view.engines) == (2, (PORT, other))
    assert 'promiseserve_replica_places{replica="r2"} 0.0' in view.metrics


class Raising:
    """The core, but for one ticket on which it fails."""

    def __init__(self, flow: object, method: str, ticket_id: str) -> None:
        self._flow, self._method, self._ticket_id = flow, method, ticket_id

    def __getattr__(self, name: str) -> object:
        method = getattr(self._flow, name)
        if name != self._method:
            return method

        def failing(first, *others):
            if getattr(first, "ticket_id", first) == self._ticket_id:
                raise ZeroDivisionError
            return method(first, *others)

        return failing


async def test_a_ticket_on_which_the_core_fails_is_told_to_come_again_and_others_go_on():
    replica = scheduler()
    await report(replica)
    replica._flow = Raising(replica._flow, "submit", "bad")
    refused = await soon(acquire(replica, ticket("bad")))
    assert (refused.outcome, refused.retry_after_s) == (Outcome.REJECTED_NO_ENGINE, 5)
    assert isinstance(await soon(acquire(replica, ticket("good"))), Grant)


async def test_an_end_on_which_the_core_fails_breaks_nothing():
    replica = scheduler(requests_per_replica=2)
    await report(replica)
    for id_ in ("bad", "good"):
        await soon(acquire(replica, ticket(id_)))
    replica._flow = Raising(replica._flow, "close", "bad")
    close(replica, "bad", Outcome.COMPLETED)
    close(replica, "good", Outcome.COMPLETED)
    assert isinstance(await soon(acquire(replica, ticket("next"))), Grant)


async def test_a_grant_that_can_not_be_told_is_given_up_and_the_others_are_told_theirs():
    replica = scheduler(requests_per_replica=2)
    await report(replica)
    replica._flow = Raising(replica._flow, "predicted_ttft_s", "bad")
    refused = await soon(acquire(replica, ticket("bad")))
    assert refused.outcome is Outcome.REJECTED_NO_ENGINE
    # Its place is free again.
    for id_ in ("a", "b"):
        assert isinstance(await soon(acquire(replica, ticket(id_))), Grant)


async def test_an_engine_that_was_silent_for_a_while_has_kept_its_port():
    replica, silence_s = scheduler(), 60.0
    other = replace(PORT, replica_id="r2", port=8002)
    await report(replica, port=other)
    # As if that had been so long ago.
    replica._flow.skip(-silence_s)
    await report(replica)
    assert (await replica.view()).replicas_ready == 1
    # The clock was set: nobody was silent.
    replica._flow.skip(silence_s)
    first, second = acquire(replica, ticket("a")), acquire(replica, ticket("b"))
    granted = {(await soon(answer)).engine for answer in (first, second)}
    assert granted == {PORT, other}


async def test_the_core_hears_of_a_jump_of_the_clock_before_what_has_piled_up(monkeypatch):
    """A process that stood still reads what came meanwhile before its next tick."""
    replica, jumped_s = scheduler(), 0.0
    now = time.time
    monkeypatch.setattr("app.serving.scheduler.time.time", lambda: now() + jumped_s)
    await report(replica)
    jumped_s = 3600.0
    assert isinstance(await soon(acquire(replica, ticket("a"))), Grant)
    assert (await replica.view()).replicas_ready == 1


async def test_it_is_healthy_while_its_clock_runs():
    replica = scheduler()
    await replica.check_health()
    await report(replica)
    await replica.check_health()
    clock = next(task for task in asyncio.all_tasks() if "tick" in task.get_coro().__qualname__)
    clock.cancel()
    await asyncio.wait({clock})
    with pytest.raises(RuntimeError, match="a task of its clock has ended"):
        await replica.check_health()


async def test_while_an_engine_starts_a_ticket_waits_for_it_and_says_so_in_the_figures():
    replica = scheduler(engine_start_s=5.0)
    await replica.starting("r1")
    [call] = waiting(replica, ticket("a"))
    assert "promiseserve_replicas_starting 1.0" in (await replica.view()).metrics
    await report(replica)
    assert isinstance(await soon(call), Grant)
    assert "promiseserve_replicas_starting 0.0" in (await replica.view()).metrics


async def test_a_ticket_does_not_wait_for_an_engine_that_comes_too_late_for_it():
    replica = scheduler(engine_start_s=50.0)
    await replica.starting("r1")
    refusal = await soon(acquire(replica, ticket("a")))
    assert refusal.outcome is Outcome.REJECTED_NO_ENGINE
    assert refusal.predicted_wait_s == pytest.approx(50, abs=1)
    assert 49 <= refusal.retry_after_s <= 55


SLEEPER = {"min": 0, "max": 2}


async def decided(replica: SchedulerReplica, reason: Reason) -> None:
    for _ in range(250):
        if replica._scaling.decision is not None and replica._scaling.decision.reason is reason:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{replica._scaling.decision}, not {reason}")


async def test_who_asks_an_application_that_sleeps_waits_for_the_engine_that_this_wakes():
    replica = scheduler(replicas=SLEEPER, engine_start_s=5.0, replica_ttl_s=BRIEF_S, requests_per_replica=8)
    await begin(replica)
    await decided(replica, Reason.IDLE)
    assert (await replica.view()).wakes
    [call] = waiting(replica, ticket("a"))
    await decided(replica, Reason.WAKE)
    assert await replica.record_autoscaling_stats() == {"desired_replicas": 1.0}
    await replica.starting("r1")
    assert "promiseserve_replicas_starting 1.0" in (await replica.view()).metrics
    await report(replica)
    assert isinstance(await soon(call), Grant)


async def test_who_came_before_it_was_known_that_nobody_is_there_waits_as_well():
    replica = scheduler(replicas=SLEEPER, engine_start_s=5.0, replica_ttl_s=BRIEF_S)
    await begin(replica)
    [call] = waiting(replica, ticket("a"))
    await shown(replica, "promiseserve_replicas_starting 1.0")
    await report(replica)
    assert isinstance(await soon(call), Grant)


async def test_only_so_many_wait_for_the_first_engine():
    replica = scheduler(engine_start_s=5.0, max_queued=9, max_queued_without_engine=1)
    await replica.starting("r1")
    waiting(replica, ticket("a"))
    refusal = await soon(acquire(replica, ticket("b")))
    assert refusal.outcome is Outcome.REJECTED_NO_ENGINE
    assert refusal.retry_after_s == pytest.approx(5, abs=1)


async def test_while_it_has_yet_to_hear_of_its_engines_it_says_nothing_of_how_many_there_should_be():
    replica = scheduler()
    await begin(replica)
    await decided(replica, Reason.NO_DATA)
    assert await replica.record_autoscaling_stats() == {}


async def test_the_figures_say_how_many_engines_are_asked_for_and_why():
    replica = scheduler(replica_ttl_s=BRIEF_S)
    await report(replica)
    await decided(replica, Reason.STEADY)
    metrics = (await replica.view()).metrics
    assert "promiseserve_replicas_desired 1.0" in metrics
    assert 'promiseserve_scaling_reason{reason="steady"} 1.0' in metrics
    assert 'promiseserve_scaling_reason{reason="queue"} 0.0' in metrics


async def test_a_start_that_was_measured_is_what_the_next_is_expected_to_take():
    replica = scheduler(engine_start_s=50.0)
    for number in range(4):
        await replica.starting(f"r{number}")
        await report(replica, port=EnginePort(f"r{number}", "127.0.0.1", 8001, "secret"))
        await replica.replica_gone(f"r{number}")
    await replica.starting("next")
    waiting(replica, ticket("a"))


async def test_a_clock_that_is_set_makes_no_start_longer(monkeypatch):
    replica = scheduler(engine_start_s=5.0)
    await replica.starting("r1")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600.0)
    await report(replica)
    await replica.replica_gone("r1")
    await replica.starting("next")
    waiting(replica, ticket("a"))


async def test_a_start_that_has_failed_beside_an_engine_leaves_nothing():
    replica = scheduler()
    await report(replica)
    await replica.starting("r2")
    await replica.replica_gone("r2")
    assert "promiseserve_replicas_starting 0.0" in (await replica.view()).metrics


async def test_a_grant_says_what_is_served_what_was_predicted_and_what_is_left_of_the_limits():
    replica = scheduler(flow={"tenant": {"requests_per_minute": 60}})
    await report(replica)
    grant = await soon(acquire(replica, ticket("a", priority=1)))
    assert (grant.class_name, grant.rank) == ("batch", 2)
    assert 0 <= grant.predicted_ttft_s < 60
    assert (grant.rate_limits.requests.limit, grant.rate_limits.requests.remaining) == (60, 59)
    assert grant.rate_limits.tokens.limit is None


async def test_a_refusal_says_what_is_left_of_the_limits():
    replica = scheduler(flow={"tenant": {"requests_per_minute": 1}})
    await report(replica)
    await soon(acquire(replica, ticket("a")))
    refusal = await soon(acquire(replica, ticket("b")))
    assert (refusal.outcome, refusal.rate_limits.requests.remaining) == (Outcome.REJECTED_REQUEST_RATE, 0)
    assert 1 <= refusal.retry_after_s <= 66


async def test_an_engine_that_preempts_gets_fewer_leases():
    replica = scheduler(requests_per_replica=10)
    for preemptions in (0, 5):
        metrics = EngineMetrics(running=10, waiting=0, kv_use=0.5, preemptions=preemptions)
        tell(replica, ReplicaReport("r1", frozenset(), metrics=metrics))
    assert 'promiseserve_replica_limit{replica="r1"} 9.0' in (await replica.view()).metrics


async def test_an_urgent_ticket_takes_the_place_of_one_without_a_first_token():
    async with FakeEngine.started("r1") as engine:
        replica = scheduler(flow={"preempt": {"risk_share": 0.0}})
        await report(replica, port=engine.port)
        batch = replace(ticket("batch", priority=1), revocable=True)
        assert isinstance(await soon(acquire(replica, batch)), Grant)
        # Another one, that answers already, would keep its place.
        urgent = await soon(acquire(replica, ticket("urgent", priority=-1)))
        assert urgent.class_name == "interactive"
        assert await soon(engine.revoked.get()) == "batch"
        await soon(asyncio.gather(*replica._revoking))
        assert 'promiseserve_revokes_total{taken="true"} 1.0' in (await replica.view()).metrics
        [again] = waiting(replica, batch)
        close(replica, "urgent", Outcome.COMPLETED)
        assert isinstance(await soon(again), Grant)


@pytest.mark.parametrize("protected", [True, False])
async def test_a_first_token_protects_its_lease(protected: bool):
    async with FakeEngine.started("r1") as engine:
        replica = scheduler(flow={"preempt": {"risk_share": 0.0}})
        await report(replica, port=engine.port)
        batch = replace(ticket("batch", priority=1), revocable=True)
        await soon(acquire(replica, batch))
        if protected:
            replica.first_tokens("r1", [FirstToken("batch", time.time())])
        urgent = acquire(replica, ticket("urgent", priority=-1))
        assert urgent.done() is not protected
        await soon(asyncio.gather(*replica._revoking))
        assert engine.revoked.empty() is protected


async def test_first_tokens_that_fail_end_no_connection(monkeypatch, caplog):
    replica = scheduler()

    def fail(*_: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(replica, "_flow", SimpleNamespace(first_tokens=fail))
    replica.first_tokens("r1", [FirstToken("a", 0.0)])
    assert "First tokens of engine r1 failed" in caplog.text


async def test_a_report_that_fails_ends_no_connection(monkeypatch, caplog):
    replica = scheduler()

    def fail(*_: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(replica, "_flow", SimpleNamespace(report=fail))
    tell(replica, ReplicaReport("r1", frozenset()))
    assert "A report of engine r1 failed" in caplog.text


async def test_an_engine_that_can_not_be_asked_for_a_lease_back_does_no_harm():
    replica = scheduler(flow={"preempt": {"risk_share": 0.0}})
    await report(replica, port=EnginePort("r1", "127.0.0.1", 1, "secret"))
    await soon(acquire(replica, replace(ticket("batch", priority=1), revocable=True)))
    assert isinstance(await soon(acquire(replica, ticket("urgent", priority=-1))), Grant)
    [revoking] = replica._revoking
    await soon(revoking)
    metrics = (await replica.view()).metrics
    assert 'promiseserve_revokes_total{taken="true"} 0.0' in metrics
    assert 'promiseserve_revokes_total{taken="false"} 0.0' in metrics


async def test_what_streams_have_made_is_charged_while_they_run():
    replica = scheduler(requests_per_replica=1, max_queued=4)
    await report(replica)
    await soon(acquire(replica, replace(ticket("long"), tenant="blue", max_output_tokens=10)))
    tell(replica, ReplicaReport("r1", frozenset({"long"})), output_tokens={"long": 5000})
    blue, red = waiting(replica, replace(ticket("b"), tenant="blue"), replace(ticket("r"), tenant="red"))
    close(replica, "long", Outcome.CANCELLED)
    assert isinstance(await soon(red), Grant)
    assert not blue.done()


def test_the_engines_step_decides_the_burst_that_it_is_kept_fed_with():
    application = ApplicationConfig.model_validate(
        {
            "model": {"name": "tiny", "source": "somebody/tiny"},
            "engine": {"device": "cpu", "max_model_len": 64, "max_num_batched_tokens": 256},
            "open_without_keys": True,
        }
    )
    assert limits(application).batched_tokens == 256
    assert limits(application).requests_per_replica == application.engine.max_num_seqs


async def test_what_a_gateway_has_in_the_queue_is_closed_when_it_is_gone_and_the_others_go_on():
    replica = scheduler()
    await report(replica)
    await soon(acquire(replica, ticket("running")))
    dead, living = waiting(replica, replace(ticket("dead"), caller="gateway-1"), ticket("living"))
    replica.gateway_gone("gateway-1")
    assert (await replica.view()).queued == 1
    close(replica, "running", Outcome.COMPLETED)
    assert isinstance(await soon(living), Grant)
    assert not dead.done()


async def test_a_replica_that_stops_lets_its_gateways_go():
    replica = scheduler()
    address = await replica.address()
    assert await replica.address() == address
    async with aiohttp.ClientSession() as http:
        headers = {SECRET_HEADER: address.secret, GATEWAY_HEADER: "gateway-1"}
        line = await http.ws_connect(address.url, headers=headers)
        await soon(SchedulerReplica.__del__(replica))
        assert (await soon(line.receive())).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_one_that_stops_with_its_application_refuses_until_the_last_gateway_has_gone(monkeypatch):
    monkeypatch.setattr("app.serving.scheduler.is_being_deleted", lambda: True)
    replica = scheduler()
    [queued] = waiting(replica, ticket("a"))
    address = await replica.address()
    async with aiohttp.ClientSession() as http:
        headers = {SECRET_HEADER: address.secret, GATEWAY_HEADER: "gateway-1"}
        line = await http.ws_connect(address.url, headers=headers)
        stopping = asyncio.create_task(SchedulerReplica.__del__(replica))
        assert (await soon(queued)).outcome is Outcome.EVICTED_DRAINING
        assert (await soon(acquire(replica, ticket("b")))).outcome is Outcome.REJECTED_DRAINING
        assert not stopping.done()
        await line.close()
        await soon(stopping)


async def test_what_waits_is_seen_over_time_though_no_engine_says_anything():
    replica = scheduler(engine_start_s=5.0)
    await replica.starting("r1")
    waiting(replica, ticket("a"), ticket("b"))
    for _ in range(100):
        history = (await replica.status()).history
        if history:
            break
        await asyncio.sleep(0.02)
    assert history[-1].queued == 2


async def test_a_scheduler_to_which_nobody_speaks_decides_nothing(monkeypatch):
    replica = scheduler(replica_ttl_s=BRIEF_S)
    await report(replica)
    await decided(replica, Reason.STEADY)
    assert await replica.record_autoscaling_stats() == {"desired_replicas": 1.0}
    monkeypatch.setattr("app.serving.scheduler.UNHEARD_S", 0.0)
    assert await replica.record_autoscaling_stats() == {}


@pytest.mark.parametrize("starts", [False, True])
async def test_it_asks_serve_once_for_starts_that_it_was_not_told_of(monkeypatch, starts):
    monkeypatch.setattr("app.serving.scheduler.engine_is_starting", lambda: starts)
    replica = scheduler(engine_start_s=5.0)
    await begin(replica)
    await asyncio.wait([replica._looking], timeout=5.0)
    assert f"promiseserve_replicas_starting {float(starts)}" in (await replica.view()).metrics


async def test_a_place_that_is_given_again_is_no_second_wait():
    replica = scheduler()
    await report(replica)
    first = ticket("a")
    await soon(acquire(replica, first))
    await soon(acquire(replica, first))
    assert 'promiseserve_queue_wait_seconds_count{class="standard"} 1.0' in (await replica.view()).metrics


async def test_the_status_crosses_process_borders_and_says_who_waits():
    replica = scheduler()
    await report(replica)
    await soon(acquire(replica, ticket("a")))
    calls = waiting(replica, ticket("b"))
    await report(replica, "a")
    view = pickle.loads(pickle.dumps(await replica.status()))
    assert (view.model, view.queued, view.in_flight, view.places) == ("tiny", 1, 1, 1)
    assert [one.replica_id for one in view.detail.replicas] == [PORT.replica_id]
    assert [(one.name, sum(one.queued), one.running) for one in view.detail.tenants] == [("default", 1, 1)]
    close(replica, "a", Outcome.COMPLETED, Usage(3, 2, 0.1))
    await soon(calls[0])
    ended = await replica.status()
    assert ended.ended == (("completed", 1),)
    assert {(one.promise, one.kept, one.total) for one in ended.attainment} >= {("answered", 1, 1)}
