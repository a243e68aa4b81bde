"""Gateway's line and scheduler's port, over a real socket: what is said, what an end reaches, who leads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import aiohttp
import pytest

from app.contract import (
    SECRET_HEADER,
    Closing,
    EnginePort,
    EngineReport,
    FirstToken,
    Grant,
    RateLimits,
    Refusal,
    Reply,
    SchedulerAddress,
)
from app.flow.outcome import Outcome
from app.flow.ticket import EngineMetrics, RateLimit, ReplicaReport, Ticket, Usage
from app.serving.frames import MAX_JOINED, Answers, Told, decode_answers, encode
from app.serving.scheduler_line import SchedulerLine
from app.serving.scheduler_port import ENGINE_HEADER, GATEWAY_HEADER, Inbox, SchedulerPort
from tests.fakes import soon

# Long enough to be waited for, short enough to be waited out.
BRIEF_S = 0.3
# Between two looks for who leads.
LOOK_S = 0.01
REFUSAL = Refusal(Outcome.REJECTED_FULL, 7)


class Desk:
    """Notes what it is told, in order; answers at once with `reply`, or when a test does."""

    def __init__(self, reply: Reply | None = REFUSAL) -> None:
        self.reply = reply
        self.told: list[str | Closing] = []
        self.tickets: list[Ticket] = []
        self.inboxes: dict[str, Inbox] = {}
        self.gone: asyncio.Queue[str] = asyncio.Queue()
        self.news: asyncio.Queue[tuple[str, list[FirstToken]]] = asyncio.Queue()
        self.reports: asyncio.Queue[EngineReport] = asyncio.Queue()
        self.heard = asyncio.Event()

    def submit(self, ticket: Ticket, inbox: Inbox) -> None:
        self.told.append(ticket.ticket_id)
        self.tickets.append(ticket)
        self.inboxes[ticket.ticket_id] = inbox
        self.heard.set()
        if self.reply is not None:
            inbox.put((ticket.ticket_id, self.reply))

    def close(self, closing: Closing) -> None:
        self.told.append(closing)
        self.heard.set()

    def first_tokens(self, replica_id: str, news: Sequence[FirstToken]) -> None:
        self.news.put_nowait((replica_id, list(news)))

    def report(self, report: EngineReport) -> None:
        self.reports.put_nowait(report)

    def gateway_gone(self, gateway_id: str) -> None:
        self.gone.put_nowait(gateway_id)


class Scheduler:
    """A desk behind its port."""

    def __init__(
        self, reply: Reply | None = REFUSAL, silence_s: float = 10.0, host: str = "127.0.0.1"
    ) -> None:
        self.desk = Desk(reply)
        self.port = SchedulerPort(self.desk, host, silence_s, absence_s=BRIEF_S)


class Leaders:
    """Who leads, as Serve's router says it; None: nobody."""

    def __init__(self, *schedulers: Scheduler) -> None:
        self.schedulers = schedulers
        self.leader: Scheduler | None = schedulers[0]
        self.asked = 0
        self.looks = asyncio.Queue[None]()

    async def looked_again(self) -> None:
        """Until a look that begins now has ended."""
        while not self.looks.empty():
            self.looks.get_nowait()
        for _ in range(2):
            await soon(self.looks.get())

    async def __call__(self) -> SchedulerAddress:
        self.asked += 1
        self.looks.put_nowait(None)
        if self.leader is None:
            raise ConnectionError("nobody")
        return await self.leader.port.address()


@contextlib.asynccontextmanager
async def connected(leaders: Leaders, gateway_id: str = "g1") -> AsyncIterator[SchedulerLine]:
    async with aiohttp.ClientSession() as http:
        yield SchedulerLine(leaders, http, gateway_id, look_interval_s=LOOK_S)
    for scheduler in leaders.schedulers:
        await scheduler.port.close()


def submitting(line: SchedulerLine, *names: str) -> list[asyncio.Task[Reply]]:
    return [asyncio.create_task(line.submit(Ticket(name, 0, 0.0))) for name in names]


async def test_each_ticket_gets_its_own_answer_whole():
    limits = RateLimits(RateLimit(60, 59, 1.0), RateLimit(None, None, 0.0))
    grant = Grant(EnginePort("r1", "127.0.0.1", 8001, "secret"), 0.5, "batch", 2, 0.25, limits)
    leaders = Leaders(scheduler := Scheduler(grant))
    async with connected(leaders) as line:
        assert await soon(line.submit(Ticket("a", 0, 0.0))) == grant
        scheduler.desk.reply = refusal = Refusal(Outcome.EVICTED_DEADLINE, None, 3.5, limits)
        assert [await soon(one) for one in submitting(line, "b", "c")] == [refusal, refusal]
    assert leaders.asked == 1


async def test_a_ticket_arrives_as_it_was_sent_and_waits_for_as_long_as_it_takes():
    leaders = Leaders(scheduler := Scheduler(None))
    sent = Ticket("a", -1, 5.5, "blue", prefix_blocks=(1, 2**64 - 1), ttft_budget_s=0.5, revocable=True)
    async with connected(leaders) as line:
        waiting = asyncio.create_task(line.submit(sent))
        await soon(scheduler.desk.heard.wait())
        done, _ = await asyncio.wait({waiting}, timeout=BRIEF_S)
        assert not done
        scheduler.desk.inboxes["a"].put(("a", REFUSAL))
        assert await soon(waiting) == REFUSAL
    # Whose it is its connection says.
    assert scheduler.desk.tickets == [replace(sent, caller="g1")]


async def test_what_is_said_at_the_same_time_counts_with_its_closings_first():
    leaders = Leaders(scheduler := Scheduler())
    async with connected(leaders) as line:
        await soon(line.submit(Ticket("a", 0, 0.0)))
        later = submitting(line, "b", "c")
        closing = Closing("a", Outcome.COMPLETED, Usage(3, 2, 0.1, None))
        await asyncio.gather(line.close(closing), *later)
    assert scheduler.desk.told == ["a", closing, "b", "c"]


async def test_a_ticket_whose_client_has_gone_is_not_told_after_its_closing():
    leaders = Leaders(scheduler := Scheduler())
    async with connected(leaders) as line:
        await soon(line.submit(Ticket("first", 0, 0.0)))
        [gone] = submitting(line, "gone")
        await asyncio.sleep(0)
        gone.cancel()
        await line.close(closing := Closing("gone", Outcome.CANCELLED))
        await soon(line.submit(Ticket("last", 0, 0.0)))
    assert scheduler.desk.told == ["first", closing, "last"]


async def test_whoever_goes_away_while_it_waits_wants_no_answer():
    leaders = Leaders(scheduler := Scheduler(None))
    async with connected(leaders) as line:
        [gone, stays] = submitting(line, "gone", "stays")
        await soon(scheduler.desk.heard.wait())
        gone.cancel()
        await asyncio.wait({gone})
        for name in ("gone", "stays"):
            scheduler.desk.inboxes[name].put((name, REFUSAL))
        assert await soon(stays) == REFUSAL


async def test_more_than_one_frame_holds_is_told_in_several():
    leaders = Leaders(scheduler := Scheduler())
    async with connected(leaders) as line:
        every = submitting(line, *(str(number) for number in range(2 * MAX_JOINED + 1)))
        await soon(asyncio.gather(*every))
    assert scheduler.desk.told == [str(number) for number in range(2 * MAX_JOINED + 1)]


async def test_a_scheduler_that_goes_is_known_at_once_and_its_successor_found():
    leaders = Leaders(first := Scheduler(None), second := Scheduler())
    async with connected(leaders) as line:
        [waiting] = submitting(line, "a")
        await soon(first.desk.heard.wait())
        leaders.leader = None
        await first.port.close()
        with pytest.raises(ConnectionError, match="has gone"):
            await soon(waiting)
        for lost in (line.submit(Ticket("a", 0, 0.0)), line.close(Closing("a", Outcome.CANCELLED))):
            with pytest.raises(ConnectionError, match="nobody"):
                await soon(lost)
        leaders.leader = second
        assert await soon(line.submit(Ticket("a", 0, 0.0))) == REFUSAL
    assert second.desk.told == ["a"]


async def test_a_line_that_is_kept_leaves_a_scheduler_that_does_not_lead_any_more():
    leaders = Leaders(first := Scheduler(None), second := Scheduler())
    async with connected(leaders) as line:
        keeping = asyncio.create_task(line.keep())
        [waiting] = submitting(line, "a")
        await soon(first.desk.heard.wait())
        leaders.leader = second
        with pytest.raises(ConnectionError, match="has gone"):
            await soon(waiting)
        assert await soon(first.desk.gone.get()) == "g1"
        assert await soon(line.submit(Ticket("a", 0, 0.0))) == REFUSAL
        leaders.leader = None
        await leaders.looked_again()
        # Nobody who leads is no reason to leave the one that answers.
        assert await soon(line.submit(Ticket("b", 0, 0.0))) == REFUSAL
        assert not keeping.done()
        keeping.cancel()


async def test_a_gateway_that_goes_is_known_soon():
    leaders = Leaders(scheduler := Scheduler())
    async with connected(leaders) as line:
        await soon(line.submit(Ticket("a", 0, 0.0)))
        assert scheduler.desk.gone.empty()
    assert await soon(scheduler.desk.gone.get()) == "g1"


async def test_an_ipv6_node_is_listened_on_and_reached():
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    scheduler = Scheduler(host="::1")
    async with connected(Leaders(scheduler)) as line:
        assert await soon(line.submit(Ticket("a", 0, 0.0))) == REFUSAL


async def test_first_tokens_come_together_with_their_engine_whose_end_says_nothing():
    scheduler = Scheduler()
    async with aiohttp.ClientSession() as http:
        line = SchedulerLine(Leaders(scheduler), http, "e1", header=ENGINE_HEADER)
        news = [FirstToken("a", 1.5), FirstToken("b", 1.5)]
        await line.first_tokens(news)
        assert await soon(scheduler.desk.news.get()) == ("e1", news)
        assert not scheduler.port.connected
    await soon(scheduler.port.left())
    await asyncio.sleep(2 * BRIEF_S)
    assert scheduler.desk.gone.empty()
    await scheduler.port.close()


async def test_reports_come_as_they_were_sent():
    scheduler = Scheduler()
    metrics = EngineMetrics(running=3, waiting=0, kv_use=0.5, itl_s=0.02, steps=7, prompt_tokens=100)
    state = ReplicaReport("e1", frozenset({"a", "b"}), draining=True, metrics=metrics)
    report = EngineReport(state, EnginePort("e1", "::1", 8000, "secret"), {"a": 3})
    async with aiohttp.ClientSession() as http:
        line = SchedulerLine(Leaders(scheduler), http, "e1", header=ENGINE_HEADER)
        await line.report(report)
        assert await soon(scheduler.desk.reports.get()) == report
        assert scheduler.desk.news.empty()
    await scheduler.port.close()


async def let_go(line: SchedulerLine) -> None:
    """Until nobody hears it."""
    with contextlib.suppress(ConnectionError):
        while True:
            await line.first_tokens([FirstToken("c", 3.0)])
            await asyncio.sleep(LOOK_S)


async def test_an_engine_goes_to_the_next_scheduler():
    first, second = Scheduler(), Scheduler()
    leaders = Leaders(first, second)
    async with aiohttp.ClientSession() as http:
        line = SchedulerLine(leaders, http, "e1", look_interval_s=LOOK_S, header=ENGINE_HEADER)
        keeping = asyncio.create_task(line.keep())
        await line.first_tokens([FirstToken("a", 1.0)])
        assert await soon(first.desk.news.get()) == ("e1", [FirstToken("a", 1.0)])
        leaders.leader = second
        await leaders.looked_again()
        await line.first_tokens([FirstToken("b", 2.0)])
        assert await soon(second.desk.news.get()) == ("e1", [FirstToken("b", 2.0)])
        leaders.leader = None
        # It lets its engines go.
        await soon(second.port.close())
        await soon(let_go(line))
        keeping.cancel()
    await first.port.close()


async def test_who_says_not_who_it_is_is_not_heard():
    scheduler = Scheduler()
    address = await scheduler.port.address()
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="400"):
            await http.ws_connect(address.url, headers={SECRET_HEADER: address.secret})
    await scheduler.port.close()


@pytest.mark.parametrize("old_ends_first", [True, False])
async def test_a_gateway_that_comes_back_is_not_gone_with_its_old_connection(old_ends_first):
    scheduler = Scheduler()
    address = await scheduler.port.address()
    headers = {SECRET_HEADER: address.secret, GATEWAY_HEADER: "g1"}
    async with aiohttp.ClientSession() as http:
        old = await http.ws_connect(address.url, headers=headers)
        if old_ends_first:
            await old.close()
        new = await http.ws_connect(address.url, headers=headers)
        await old.close()
        await asyncio.sleep(2 * BRIEF_S)
        await new.send_bytes(encode(Told([], [Ticket("a", 0, 0.0)])))
        assert decode_answers((await soon(new.receive())).data) == Answers({}, {"a": REFUSAL})
        assert scheduler.desk.gone.empty()
        await new.close()
        assert await soon(scheduler.desk.gone.get()) == "g1"
    await scheduler.port.close()


async def test_a_gateway_that_is_silent_is_gone():
    scheduler = Scheduler(silence_s=BRIEF_S)
    address = await scheduler.port.address()
    headers = {SECRET_HEADER: address.secret, GATEWAY_HEADER: "g1"}
    async with aiohttp.ClientSession() as http:
        # It reads nothing, so it answers no ping either: as a process that is frozen.
        await http.ws_connect(address.url, headers=headers)
        assert await soon(scheduler.desk.gone.get()) == "g1"
    await scheduler.port.close()


@pytest.mark.parametrize("secret", [b"", b"wrong", "é".encode(), b"\xff"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize("path", [b"/", b"/anything"])
async def test_without_the_secret_nobody_is_told_anything(method, path, secret):
    scheduler = Scheduler()
    address = await scheduler.port.address()
    reader, writer = await asyncio.open_connection(address.host, address.port)
    heads = [method + b" " + path + b" HTTP/1.1", b"host: x", b"connection: close"]
    writer.write(b"\r\n".join([*heads, SECRET_HEADER.encode() + b": " + secret, b"", b""]))
    assert b" 401 " in (await soon(reader.read())).splitlines()[0]
    writer.close()
    assert address.secret not in repr(address)
    await scheduler.port.close()


async def test_what_can_not_be_written_ends_the_line_and_whoever_waits_hears_of_it():
    leaders = Leaders(scheduler := Scheduler(None))
    async with connected(leaders) as line:
        [waiting] = submitting(line, "a")
        await soon(scheduler.desk.heard.wait())
        with pytest.raises(ConnectionError, match="has gone"):
            await soon(line.submit(Ticket("b", 2**70, 0.0)))
        with pytest.raises(ConnectionError, match="has gone"):
            await soon(waiting)
        scheduler.desk.reply = REFUSAL
        assert await soon(line.submit(Ticket("c", 0, 0.0))) == REFUSAL


async def test_an_error_of_another_kind_does_not_end_the_looking():
    scheduler = Scheduler()
    asked = 0
    again = asyncio.Event()

    async def who_leads() -> SchedulerAddress:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ValueError("the method's own")
        again.set()
        return await scheduler.port.address()

    async with aiohttp.ClientSession() as http:
        line = SchedulerLine(who_leads, http, "g1", look_interval_s=LOOK_S)
        keeping = asyncio.create_task(line.keep())
        await soon(again.wait())
        assert await soon(line.submit(Ticket("a", 0, 0.0))) == REFUSAL
        assert not keeping.done()
        keeping.cancel()
    await scheduler.port.close()


@pytest.mark.parametrize("frame", [b"", b"\xc1", encode(Answers({}, {})), "text"])
async def test_who_says_what_can_not_be_read_is_let_go(frame):
    scheduler = Scheduler()
    address = await scheduler.port.address()
    headers = {SECRET_HEADER: address.secret, GATEWAY_HEADER: "g1"}
    async with aiohttp.ClientSession() as http:
        line = await http.ws_connect(address.url, headers=headers)
        await (line.send_str(frame) if isinstance(frame, str) else line.send_bytes(frame))
        assert (await soon(line.receive())).type is aiohttp.WSMsgType.CLOSE
        assert await soon(scheduler.desk.gone.get()) == "g1"
    assert scheduler.desk.told == []
    await scheduler.port.close()


async def test_a_scheduler_that_can_not_be_reached_is_said_to_be_so():
    async def nowhere() -> SchedulerAddress:
        return SchedulerAddress("127.0.0.1", 1, "secret")

    async def never() -> SchedulerAddress:
        await asyncio.Event().wait()

    async with aiohttp.ClientSession() as http:
        for who_leads in (nowhere, never):
            line = SchedulerLine(who_leads, http, "g1", timeout_s=BRIEF_S)
            with pytest.raises(ConnectionError, match="can't be reached"):
                await soon(line.submit(Ticket("a", 0, 0.0)))
