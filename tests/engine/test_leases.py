"""What an engine replica knows of the requests that run under leases."""

from __future__ import annotations

import asyncio
import time

from app.engine.leases import LiveLeases
from tests.fakes import soon

# Long enough to be waited for, short enough to be waited out.
BRIEF_S = 0.05


def test_a_lease_is_live_while_its_request_runs():
    leases = LiveLeases()
    assert (leases.ids(), len(leases)) == (frozenset(), 0)
    run = leases.attach("a", priority=2)
    assert (leases.ids(), len(leases), run.crowd, run.priority) == ({"a"}, 1, 1, 2)
    leases.end("a")
    assert (leases.ids(), len(leases)) == (frozenset(), 0)


def test_a_second_request_with_the_same_lease_is_turned_away_while_the_first_runs():
    leases = LiveLeases()
    assert leases.attach("a", priority=0) is not None
    assert leases.attach("a", priority=0) is None
    leases.end("a")
    assert leases.attach("a", priority=0) is not None


def test_leases_do_not_touch_each_other_and_an_unknown_one_can_end():
    leases = LiveLeases()
    leases.attach("a", priority=0)
    leases.attach("b", priority=0)
    leases.end("a")
    leases.end("never seen")
    assert (leases.ids(), leases.idle.is_set()) == ({"b"}, False)
    leases.end("b")
    assert leases.idle.is_set()


async def test_what_a_request_used_is_told_to_who_asks_before_its_end():
    leases = LiveLeases()
    run = leases.attach("a", priority=0)
    asking = [asyncio.create_task(leases.used("a")) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in asking)
    run.metered.output_tokens = 5
    leases.end("a")
    assert await soon(asyncio.gather(*asking)) == [run.metered, run.metered]


async def test_what_was_used_is_kept_for_a_while_and_told_to_who_asks_later():
    leases = LiveLeases(BRIEF_S)
    old, new = leases.attach("old", priority=0), leases.attach("new", priority=0)
    leases.end("old")
    assert await leases.used("old") is old.metered
    assert await leases.used("never seen") is None
    await asyncio.sleep(1.5 * BRIEF_S)
    leases.end("new")
    assert (await leases.used("old"), await leases.used("new")) == (None, new.metered)


async def test_what_the_last_request_under_a_lease_used_is_not_that_of_the_next():
    leases = LiveLeases()
    leases.attach("a", priority=0)
    leases.end("a")
    again = leases.attach("a", priority=0)
    asking = asyncio.create_task(leases.used("a"))
    await asyncio.sleep(0)
    assert not asking.done()
    leases.end("a")
    assert await soon(asking) is again.metered


async def test_what_drains_runs_until_nothing_has_come_for_a_while_and_then_begins_nothing():
    leases = LiveLeases()
    leases.attach("a", priority=0)
    closing = asyncio.create_task(leases.close(BRIEF_S))
    await asyncio.sleep(0)
    assert leases.attach("b", priority=0) is not None
    for lease_id in "ab":
        leases.end(lease_id)
    await asyncio.sleep(0)
    # It was granted before the others had ended, and comes while none runs.
    assert leases.attach("c", priority=0) is not None
    await asyncio.sleep(2 * BRIEF_S)
    assert not closing.done()
    leases.end("c")
    await soon(closing)
    assert leases.attach("d", priority=0) is None


async def test_who_came_and_went_while_nothing_ran_has_the_whole_pause_behind_it():
    leases, quiet_s = LiveLeases(), 4 * BRIEF_S
    closing = asyncio.create_task(leases.close(quiet_s))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leases.attach("a", priority=0)
    leases.end("a")
    await asyncio.sleep(1.25 * quiet_s)
    assert not closing.done()
    assert leases.attach("b", priority=0) is not None
    leases.end("b")
    await soon(closing)
    assert leases.attach("c", priority=0) is None


async def test_first_tokens_are_told_once_together_and_in_order():
    leases = LiveLeases()
    telling = asyncio.create_task(leases.first_tokens())
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


def test_what_has_been_made_so_far_is_known_of_those_that_have_begun():
    leases = LiveLeases()
    run = leases.attach("a", priority=0)
    leases.attach("b", priority=0)
    run.metered.output_tokens = 7
    assert leases.output_tokens() == {"a": 7}


def test_a_lease_can_be_taken_back_until_its_request_answers():
    leases = LiveLeases()
    answering, silent = [leases.attach(lease_id, priority=0) for lease_id in "ab"]
    answering.answers()
    assert (leases.revoke("a"), leases.revoke("b")) == (False, True)
    assert (answering.revoked.is_set(), silent.revoked.is_set()) == (False, True)


def test_a_lease_can_be_taken_back_before_its_request_has_come():
    leases = LiveLeases()
    assert leases.revoke("a")
    assert leases.attach("b", priority=0).revoked.is_set() is False
    run = leases.attach("a", priority=0)
    assert run.revoked.is_set()
    leases.end("a")
    # It has come and gone: what comes now has another lease.
    assert not leases.attach("a", priority=0).revoked.is_set()


def test_one_that_has_ended_can_not():
    leases = LiveLeases()
    leases.attach("a", priority=0)
    leases.end("a")
    assert not leases.revoke("a")
    assert not leases.attach("a", priority=0).revoked.is_set()


def test_who_never_comes_is_not_waited_for():
    leases = LiveLeases(kept_s=0.0)
    for lease_id in "abc":
        assert leases.revoke(lease_id)
    assert len(leases._revoked) == 1
    assert not leases.attach("c", priority=0).revoked.is_set()


def test_tokens_that_come_after_a_lease_was_taken_back_are_none():
    leases = LiveLeases()
    run = leases.attach("a", priority=0)
    assert leases.revoke("a")
    run.tokens()
    assert run.metered.first_token_at_s is None
    assert run.withheld
    assert not leases._news.is_set()
