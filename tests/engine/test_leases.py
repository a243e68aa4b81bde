"""A lease pairs one control call with one request."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.engine.leases import LiveLeases
from tests.fakes import soon

# Long enough to be waited for, short enough to be waited out.
BRIEF_S = 0.05


async def held(leases: LiveLeases, lease_id: str) -> asyncio.Task:
    """The control call, which has arrived."""
    holding = asyncio.create_task(leases.hold(lease_id))
    await asyncio.sleep(0)
    assert lease_id in leases.ids()
    return holding


async def test_a_lease_is_live_from_the_control_call_to_the_end_of_its_request():
    leases = LiveLeases()
    assert leases.ids() == frozenset()
    holding = await held(leases, "a")
    run = leases.attach("a", priority=0)
    run.metered.output_tokens = 5
    assert leases.ids() == {"a"}
    leases.end("a")
    assert await soon(holding) is run.metered
    assert leases.ids() == frozenset()


async def test_a_request_begins_before_its_control_call_and_answers_after_it():
    leases = LiveLeases()
    run = leases.attach("a", priority=0)
    answering = asyncio.create_task(run.may_answer())
    await asyncio.sleep(0)
    # A report that left it out would end its lease.
    assert leases.ids() == {"a"}
    assert not answering.done()
    holding = await held(leases, "a")
    assert await soon(answering)
    assert await run.may_answer()
    leases.end("a")
    assert await soon(holding) is run.metered


async def test_a_request_that_has_ended_when_its_control_call_comes_ends_that_at_once():
    leases = LiveLeases()
    run = leases.attach("a", priority=0)
    leases.end("a")
    assert await soon(leases.hold("a")) is run.metered
    assert leases.ids() == frozenset()


async def test_a_second_request_with_the_same_lease_is_turned_away_at_once():
    leases = LiveLeases()
    holding = await held(leases, "a")
    assert leases.attach("a", priority=0) is not None
    assert leases.attach("a", priority=0) is None
    leases.end("a")
    await soon(holding)


async def test_under_a_lease_that_has_ended_nobody_answers():
    leases = LiveLeases(BRIEF_S)
    holding = await held(leases, "a")
    leases.attach("a", priority=0)
    leases.end("a")
    await soon(holding)
    again = leases.attach("a", priority=0)
    assert not await soon(again.may_answer())
    assert (again.withheld, again.revoked.is_set()) == (True, True)


async def test_a_request_without_a_control_call_does_not_answer_and_leaves_nothing_behind():
    leases = LiveLeases(BRIEF_S)
    run = leases.attach("a", priority=0)
    assert not await soon(run.may_answer())
    leases.end("a")
    assert len(leases) == 1
    await asyncio.sleep(2 * BRIEF_S)
    assert len(leases) == 0


async def test_a_lease_that_is_used_again_is_not_forgotten_for_its_last_user():
    leases = LiveLeases(BRIEF_S)
    leases.attach("a", priority=0)
    leases.end("a")
    await soon(leases.hold("a"))
    holding = await held(leases, "a")
    leases.attach("a", priority=0)
    await asyncio.sleep(2 * BRIEF_S)
    assert leases.ids() == {"a"}
    leases.end("a")
    await soon(holding)


async def test_a_control_call_without_a_request_expires():
    leases = LiveLeases(BRIEF_S)
    with pytest.raises(TimeoutError):
        await soon(leases.hold("a"))
    assert leases.ids() == frozenset()


async def test_a_running_request_does_not_expire():
    leases = LiveLeases(BRIEF_S)
    holding = await held(leases, "a")
    leases.attach("a", priority=0)
    done, _ = await asyncio.wait({holding}, timeout=3 * BRIEF_S)
    assert not done
    leases.end("a")
    await soon(holding)


async def test_a_lease_is_held_by_one_control_call():
    leases = LiveLeases()
    holding = await held(leases, "a")
    with pytest.raises(ValueError, match="lease: a is held already"):
        await leases.hold("a")
    assert leases.ids() == {"a"}
    leases.attach("a", priority=0)
    leases.end("a")
    await soon(holding)


async def test_a_control_call_that_is_cancelled_gives_the_lease_up():
    leases = LiveLeases()
    holding = await held(leases, "a")
    holding.cancel()
    await asyncio.wait({holding})
    assert leases.ids() == frozenset()


async def test_leases_do_not_touch_each_other_and_an_unknown_one_can_end():
    leases = LiveLeases()
    first, second = await held(leases, "a"), await held(leases, "b")
    leases.attach("a", priority=0)
    leases.end("a")
    leases.end("never seen")
    await soon(first)
    assert leases.ids() == {"b"}
    leases.attach("b", priority=0)
    leases.end("b")
    await soon(second)


async def test_first_tokens_are_told_once_together_and_in_order():
    leases = LiveLeases()
    telling = asyncio.create_task(leases.first_tokens())
    holding = [await held(leases, lease_id) for lease_id in "ab"]
    runs = [leases.attach(lease_id, priority=0) for lease_id in "ab"]
    await asyncio.sleep(0)
    assert not telling.done()
    before_s = time.time()
    for run in [*runs, runs[0]]:
        run.tokens()
    news = await soon(telling)
    assert [lease_id for lease_id, _ in news] == ["a", "b"]
    assert before_s <= news[0][1] <= news[1][1] <= time.time()
    metered = runs[0].metered
    assert metered.first_token_at_s == news[0][1] <= metered.last_token_at_s <= time.time()
    for lease_id in "ab":
        leases.end(lease_id)
    await soon(asyncio.gather(*holding))


async def test_what_has_been_made_so_far_is_known_of_those_that_have_begun():
    leases = LiveLeases()
    holding = [await held(leases, lease_id) for lease_id in "ab"]
    run = leases.attach("a", priority=0)
    leases.attach("b", priority=0)
    run.metered.output_tokens = 7
    assert leases.output_tokens() == {"a": 7}
    for lease_id in "ab":
        leases.end(lease_id)
    await soon(asyncio.gather(*holding))


async def test_a_lease_can_be_taken_back_until_its_request_answers():
    leases = LiveLeases()
    assert not leases.revoke("never seen")
    holding = [await held(leases, lease_id) for lease_id in "ab"]
    answering, silent = [leases.attach(lease_id, priority=0) for lease_id in "ab"]
    answering.answers()
    assert (leases.revoke("a"), leases.revoke("b")) == (False, True)
    assert (answering.revoked.is_set(), silent.revoked.is_set()) == (False, True)
    for lease_id in "ab":
        leases.end(lease_id)
    ends = await soon(asyncio.gather(*holding))
    assert [metered.revoked for metered in ends] == [False, True]


async def test_tokens_that_come_after_a_lease_was_taken_back_are_none():
    leases = LiveLeases()
    holding = await held(leases, "a")
    run = leases.attach("a", priority=0)
    assert leases.revoke("a")
    run.tokens()
    assert run.metered.first_token_at_s is None
    assert not await run.may_answer()
    assert not leases._news.is_set()
    leases.end("a")
    await soon(holding)
