"""Calls to the scheduler, joined: what goes together, and what an error reaches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from app.contract import Closing, Refusal, Reply, Waits
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket
from app.serving.scheduler_line import MAX_CALLS, MAX_JOINED, SchedulerLine
from tests.fakes import soon


class Scheduler:
    """Answers when told to: a refusal that names the ticket's place in its call."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[str]]] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def tell(self, tickets: Sequence[Ticket], closings: Sequence[Closing]) -> list[Reply | Waits]:
        self.calls.append(([one.ticket_id for one in tickets], [one.ticket_id for one in closings]))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return [Refusal(Outcome.REJECTED_FULL, place) for place in range(len(tickets))]


def submits(line: SchedulerLine, *names: str) -> list[asyncio.Task[Reply | Waits]]:
    return [asyncio.create_task(line.submit(Ticket(name, 0, 0.0))) for name in names]


async def busy(line: SchedulerLine) -> list[asyncio.Task[Reply | Waits]]:
    """As many calls are under way as there may be: `first0` and those after it."""
    first = []
    for number in range(MAX_CALLS):
        first += submits(line, f"first{number}")
        await asyncio.sleep(0.01)
    return first


async def test_at_rest_each_has_its_own_call_at_once():
    scheduler = Scheduler()
    scheduler.open.set()
    line = SchedulerLine(scheduler.tell)
    for name in ("a", "b"):
        await soon(line.submit(Ticket(name, 0, 0.0)))
    await soon(line.close(Closing("a", Outcome.COMPLETED)))
    assert scheduler.calls == [(["a"], []), (["b"], []), ([], ["a"])]


async def test_what_comes_while_calls_are_under_way_goes_together_and_each_gets_its_own_answer():
    scheduler = Scheduler()
    line = SchedulerLine(scheduler.tell)
    first = await busy(line)
    later = submits(line, "b", "c")
    closing = asyncio.create_task(line.close(Closing("first0", Outcome.COMPLETED)))
    later += submits(line, "d")
    await asyncio.sleep(0.01)
    assert len(scheduler.calls) == MAX_CALLS
    scheduler.open.set()
    assert [(await soon(one)).retry_after_s for one in later] == [0, 1, 2]
    await soon(closing)
    await soon(asyncio.gather(*first))
    assert scheduler.calls[MAX_CALLS:] == [(["b", "c", "d"], ["first0"])]


async def test_a_ticket_whose_client_has_gone_before_it_was_told_is_not_submitted_after_its_closing():
    scheduler = Scheduler()
    line = SchedulerLine(scheduler.tell)
    first = await busy(line)
    [gone] = submits(line, "gone")
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(line.close(Closing("gone", Outcome.CANCELLED)))
    await asyncio.sleep(0.01)
    scheduler.open.set()
    await soon(asyncio.gather(closing, *first))
    assert scheduler.calls[MAX_CALLS:] == [([], ["gone"])]


async def test_nothing_is_called_for_those_who_have_all_gone():
    scheduler = Scheduler()
    line = SchedulerLine(scheduler.tell)
    first = await busy(line)
    [gone] = submits(line, "gone")
    await asyncio.sleep(0.01)
    gone.cancel()
    scheduler.open.set()
    await soon(asyncio.gather(*first))
    await asyncio.sleep(0.01)
    assert len(scheduler.calls) == MAX_CALLS


async def test_no_call_carries_more_than_its_bound():
    scheduler = Scheduler()
    line = SchedulerLine(scheduler.tell)
    every = submits(line, *(str(number) for number in range(2 * MAX_JOINED + 1)))
    scheduler.open.set()
    await soon(asyncio.gather(*every))
    assert max(len(tickets) for tickets, _ in scheduler.calls) <= MAX_JOINED
    assert sum(len(tickets) for tickets, _ in scheduler.calls) == len(every)


async def test_an_error_reaches_those_whose_words_the_call_carried_and_the_line_goes_on():
    scheduler = Scheduler()
    scheduler.error = ConnectionError("gone")
    line = SchedulerLine(scheduler.tell)
    lost = [*submits(line, "a", "b"), asyncio.create_task(line.close(Closing("c", Outcome.FAILED)))]
    await asyncio.sleep(0.01)
    scheduler.open.set()
    for one in lost:
        with pytest.raises(ConnectionError, match="gone"):
            await soon(one)
    scheduler.error = None
    assert isinstance(await soon(line.submit(Ticket("d", 0, 0.0))), Refusal)


async def test_a_scheduler_that_says_nothing_can_not_be_reached():
    line = SchedulerLine(Scheduler().tell, timeout_s=0.05)
    with pytest.raises(ConnectionError, match="nothing for"):
        await soon(line.submit(Ticket("a", 0, 0.0)))


async def test_whoever_goes_away_while_its_call_is_under_way_wants_no_answer():
    scheduler = Scheduler()
    line = SchedulerLine(scheduler.tell)
    gone, stays = submits(line, "gone", "stays")
    await asyncio.sleep(0.01)
    gone.cancel()
    scheduler.open.set()
    assert isinstance(await soon(stays), Refusal)
