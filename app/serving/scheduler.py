"""The scheduler deployment: the replica that leads decides with its FlowController, and gives it the time."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import aiohttp
import ray

from app import tracing
from app.config import ApplicationConfig
from app.contract import (
    LEASES_PATH,
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
    SchedulerView,
)
from app.flow.autoscale import Load, Reason
from app.flow.controller import FlowController, Limits
from app.flow.outcome import Outcome
from app.flow.ticket import Action, Granted, Refused, Revoke, Ticket
from app.serving.autoscaling import DESIRED
from app.serving.engine_scaling import EngineScaling
from app.serving.engine_starts import EngineStarts
from app.serving.leader_router import STARTED_S
from app.serving.scheduler_metrics import SchedulerMetrics
from app.serving.scheduler_port import Inbox, SchedulerPort
from app.serving.serve_status import engine_is_starting, is_being_deleted
from app.status.history import History
from app.status.view import MAX_TENANTS, StatusView, status_view

logger = logging.getLogger("ray.serve")

# How late an expiry may be noticed.
TICK_INTERVAL_S = 0.1
# Of what a page draws.
SAMPLE_INTERVAL_S = 1.0
# Engines report every second to the scheduler that leads and to no other, and gateways are connected to it.
UNHEARD_S = 10.0
# Between two ticks: this process was frozen, or its machine's clock was set.
LONG_PAUSE_S = 2.0
# An engine that does not take a lease back within this answers its request instead.
REVOKE_TIMEOUT_S = 2.0
# An engine that has said nothing for so long does not come back: where it listened is forgotten.
FORGOTTEN_S = 3600.0
# When a ticket could not be decided on.
UNDECIDED_RETRY_AFTER_S = 5


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A ticket without an answer yet, and where that goes. Seconds since the epoch."""

    ticket: Ticket
    inbox: Inbox
    since_s: float


class SchedulerReplica:
    """Turns what gateways and engines say into events, and the core's actions into answers."""

    def __init__(self, config: ApplicationConfig) -> None:
        tracing.configure(config.tracing, "promiseserve-scheduler")
        self._config = config
        self._ranks = {policy.name: rank for rank, policy in enumerate(config.flow.classes)}
        self._metrics = SchedulerMetrics(config)
        self._flow = FlowController(limits(config), config.flow, random.random, self._metrics.requests.ended)
        self._history = History()
        self._waiting: dict[str, _Waiting] = {}
        self._port = SchedulerPort(self, ray.util.get_node_ip_address(), config.scheduler.gateway_ttl_s)
        # With when each was last heard of, by the clock that nobody sets.
        self._engine_ports: dict[str, tuple[EnginePort, float]] = {}
        # When anybody was, by the same.
        self._heard_s = -math.inf
        self._wakes = config.replicas.min == 0
        self._starts = EngineStarts(self._flow, config.scheduler.engine_start_s, wakes=self._wakes)
        self._revoking: set[asyncio.Task[None]] = set()
        # When it came, and when something happened last, by the clock that is set.
        self._started_s = self._last_s = time.time()
        self._scaling = EngineScaling(config, self._load, lambda: self._starts.unplaced)
        # Time begins with the first call: a spare that has waited for long is as new as any.
        self._ticking: list[asyncio.Task[None]] = []

    async def record_replica_metadata(self) -> dict[str, float]:
        """Serve's hook: by it `LeaderRouter` knows who leads."""
        return {STARTED_S: self._started_s}

    def _begin(self) -> None:
        if self._ticking:
            return
        self._last_s = time.time()
        loop = asyncio.get_running_loop()
        self._ticking = [loop.create_task(self._tick_for_ever()), loop.create_task(self._scaling.run())]
        self._looking = loop.create_task(self._look_for_starts())

    async def address(self) -> SchedulerAddress:
        """Where gateways submit and close, and engines report; Serve's router asks the one that leads."""
        self._begin()
        return await self._port.address()

    def submit(self, ticket: Ticket, inbox: Inbox) -> None:
        """The answer goes to `inbox`, at once or when the ticket's turn has come.

        A ticket that is submitted again (its gateway has lost the connection, its lease was taken back) takes
        over the earlier wait.
        """
        now_s, self._heard_s = self._now(), time.monotonic()
        self._waiting[ticket.ticket_id] = _Waiting(ticket, inbox, now_s)
        self._starts.asked(now_s)
        try:
            actions = self._flow.submit(ticket, now_s)
        except Exception:
            # Others wait on the same connection: this ticket alone pays for it.
            logger.exception("Admission failed for ticket %s", ticket.ticket_id)
            actions = self._give_up(ticket.ticket_id)
        self._perform(actions)

    def close(self, closing: Closing) -> None:
        """A request has ended, in the queue or on an engine."""
        self._waiting.pop(closing.ticket_id, None)
        try:
            actions = self._flow.close(closing.ticket_id, closing.outcome, self._now(), closing.usage)
        except Exception:
            logger.exception("Closing ticket %s failed", closing.ticket_id)
            return
        self._perform(actions)

    def gateway_gone(self, gateway_id: str) -> None:
        """What it has in the queue is closed: it would take places that nobody uses."""
        for ticket_id in [id_ for id_, one in self._waiting.items() if one.ticket.caller == gateway_id]:
            del self._waiting[ticket_id]
        self._perform(self._flow.caller_gone(gateway_id, self._now()))

    async def starting(self, replica_id: str) -> None:
        """An engine has begun to start: requests may wait for it."""
        self._begin()
        self._heard_s = time.monotonic()
        self._perform(self._starts.began(replica_id, self._now(), self._heard_s))

    def report(self, report: EngineReport) -> None:
        """An engine's sign of life, and what its requests have made."""
        replica_id = report.state.replica_id
        now_s, self._heard_s = self._now(), time.monotonic()
        self._note_port(report.port)
        try:
            self._perform(self._starts.reports(replica_id, now_s, self._heard_s))
            self._perform(self._flow.report(report.state, now_s))
            for ticket_id, tokens in report.output_tokens.items():
                self._flow.progress(ticket_id, tokens)
            if self._flow.ready:
                self._perform(self._starts.ready(now_s))
        except Exception:
            logger.exception("A report of engine %s failed", replica_id)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's hook, for app/serving/autoscaling.py. Nothing while nothing is known, or nobody says
        anything to this scheduler: then another one leads."""
        decision = self._scaling.decision
        heard = self._port.connected or time.monotonic() - self._heard_s < UNHEARD_S
        if decision is None or decision.reason is Reason.NO_DATA or not heard:
            return {}
        return {DESIRED: float(decision.target)}

    def first_tokens(self, replica_id: str, news: Sequence[FirstToken]) -> None:
        """What an engine has begun to answer."""
        try:
            actions = self._flow.first_tokens(news, self._now(), replica_id)
        except Exception:
            logger.exception("First tokens of engine %s failed", replica_id)
            return
        self._perform(actions)

    async def replica_gone(self, replica_id: str) -> None:
        """An engine has died, is about to stop or has failed to start, which Serve tries again."""
        now_s = self._now()
        self._starts.gone(replica_id, now_s, waited_for=bool(self._waiting))
        self._perform(self._flow.replica_gone(replica_id, now_s))

    async def replica_unroutable(self, replica_id: str) -> None:
        """A gateway can't reach an engine whose process has not ended."""
        self._flow.replica_unroutable(replica_id, self._now())

    async def view(self, metrics: bool = True) -> SchedulerView:
        now_s = self._now()
        snapshot = self._flow.snapshot(now_s)
        if self._scaling.decision is not None:
            self._metrics.observe_scaling(self._scaling.decision, self._starts.start_s)
        return SchedulerView(
            replicas_ready=snapshot.replicas_ready,
            wakes=self._wakes,
            queued=snapshot.queued,
            in_flight=snapshot.in_flight,
            metrics=self._metrics.page(snapshot, now_s) if metrics else "",
            engines=tuple(self._engine_ports[id_][0] for id_ in sorted(snapshot.in_flight_by_replica)),
        )

    async def status(self) -> StatusView:
        now_s = self._now()
        return status_view(
            self._config,
            self._flow.snapshot(now_s),
            self._flow.detail(MAX_TENANTS, now_s),
            self._metrics.requests.standings(now_s),
            self._history.samples(),
            self._scaling.log.decisions(),
            now_s,
        )

    async def __del__(self) -> None:
        """Serve calls it when the replica stops. Gateways go on with its successor; where there will be none,
        what waits and what comes is refused until the last of them has gone."""
        if await asyncio.to_thread(is_being_deleted):
            logger.info("The application is being deleted: no new leases")
            self._perform(self._flow.drain(self._now()))
            await self._port.left()
        await self._port.close()

    async def check_health(self) -> None:
        """Raises when the clock of the queue has stopped."""
        for task in self._ticking:
            if task.done():
                error = None if task.cancelled() else task.exception()
                raise RuntimeError("scheduler: a task of its clock has ended") from error

    def _note_port(self, port: EnginePort) -> None:
        """The core may grant on an engine that was silent for a while: its port stays."""
        now_s = time.monotonic()
        self._engine_ports[port.replica_id] = port, now_s
        for id_ in [id_ for id_, (_, at_s) in self._engine_ports.items() if now_s - at_s > FORGOTTEN_S]:
            del self._engine_ports[id_]

    def _now(self) -> float:
        """Seconds since the epoch. The core hears of a jump of the clock before anything that comes after it:
        what has piled up while this process stood still is handled before the next tick."""
        now_s = time.time()
        jump_s, self._last_s = now_s - self._last_s, now_s
        if self._ticking and abs(jump_s) > LONG_PAUSE_S:
            logger.warning("The clock has jumped by %.1f s", jump_s)
            self._flow.skip(jump_s)
        return now_s

    def _load(self) -> Load | None:
        """None until there was time to hear of every engine."""
        now_s = self._now()
        return None if self._flow.young(now_s) else self._flow.load(self._starts.start_s, now_s)

    async def _look_for_starts(self) -> None:
        """An engine says that it starts once, and its scheduler may have died since."""
        if await asyncio.to_thread(engine_is_starting):
            self._starts.found(self._now())

    async def _tick_for_ever(self) -> None:
        sampled_s = -math.inf
        while True:
            await asyncio.sleep(TICK_INTERVAL_S)
            now_s = self._now()
            if self._waiting:
                self._starts.asked(now_s)
            self._starts.follow(now_s, waited_for=bool(self._waiting))
            self._perform(self._flow.tick(now_s))
            if (clock_s := time.monotonic()) - sampled_s >= SAMPLE_INTERVAL_S:
                sampled_s = clock_s
                snapshot = self._flow.snapshot(now_s)
                self._history.add(snapshot.queued, snapshot.in_flight, now_s)

    def _perform(self, actions: Iterable[Action]) -> None:
        """One that fails is given up: the others' clients wait for theirs."""
        ahead = deque(actions)
        while ahead:
            action = ahead.popleft()
            try:
                self._act(action)
            except Exception:
                logger.exception("A decision could not be delivered; its ticket is given up")
                ahead += self._give_up(
                    action.lease.ticket_id if isinstance(action, Granted) else action.ticket_id
                )

    def _act(self, action: Action) -> None:
        if isinstance(action, Granted):
            self._grant(action)
        elif isinstance(action, Refused):
            self._refuse(action)
        else:
            revoking = asyncio.get_running_loop().create_task(self._revoke(action))
            self._revoking.add(revoking)
            revoking.add_done_callback(self._revoking.discard)

    def _give_up(self, ticket_id: str) -> list[Action]:
        """Its client is told to come again; what follows for others from its end."""
        self._settle(ticket_id, Refusal(Outcome.REJECTED_NO_ENGINE, UNDECIDED_RETRY_AFTER_S))
        try:
            return self._flow.close(ticket_id, Outcome.FAILED, self._now())
        except Exception:
            logger.exception("A ticket could not be given up.")
            return []

    def _grant(self, action: Granted) -> None:
        ticket_id = action.lease.ticket_id
        if not action.again:
            self._metrics.observe_queue_wait(action.class_name, action.queue_wait_s)
        grant = Grant(
            self._engine_ports[action.lease.replica_id][0],
            action.queue_wait_s,
            action.class_name,
            self._ranks.get(action.class_name, 0),
            self._flow.predicted_ttft_s(ticket_id),
            self._rate_limits(ticket_id),
        )
        self._settle(ticket_id, grant)

    def _refuse(self, action: Refused) -> None:
        limits_ = self._rate_limits(action.ticket_id)
        refusal = Refusal(action.outcome, action.retry_after_s, action.predicted_wait_s, limits_)
        self._settle(action.ticket_id, refusal)

    def _rate_limits(self, ticket_id: str) -> RateLimits | None:
        waiting = self._waiting.get(ticket_id)
        if waiting is None:
            return None
        requests, tokens = self._flow.rate_limits(waiting.ticket.tenant, self._now())
        # Most tenants have none, and then nothing is to be said of them.
        return None if requests.limit is tokens.limit is None else RateLimits(requests, tokens)

    async def _revoke(self, action: Revoke) -> None:
        """Ask the engine to take the lease back; if it does not, its first token gives the lease again."""
        port, _ = self._engine_ports[action.replica_id]
        timeout = aiohttp.ClientTimeout(total=REVOKE_TIMEOUT_S)
        url, headers = port.url(LEASES_PATH + action.ticket_id), {SECRET_HEADER: port.secret}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.delete(url, headers=headers) as response,
            ):
                self._metrics.count_revoke(taken=response.status == 200)
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.warning("A lease was not taken back from %s: %s", action.replica_id, error)

    def _settle(self, ticket_id: str, answer: Reply) -> None:
        waiting = self._waiting.pop(ticket_id, None)
        if waiting is not None:
            tracing.record(waiting.ticket.traceparent, "queue", waiting.since_s, self._now())
            waiting.inbox.put((ticket_id, answer))


def limits(config: ApplicationConfig) -> Limits:
    """The core's bounds from the application's."""
    return Limits(
        max_queued=config.scheduler.max_queued,
        max_queue_wait_s=config.scheduler.max_queue_wait_s,
        requests_per_replica=config.requests_per_replica(),
        lease_ttl_s=config.scheduler.lease_ttl_s,
        replica_ttl_s=config.scheduler.replica_ttl_s,
        max_bytes=config.scheduler.max_bytes,
        batched_tokens=config.engine.max_num_batched_tokens,
        prompt_step_tokens=config.engine.long_prefill_token_threshold,
        max_queued_without_engine=config.scheduler.max_queued_without_engine,
    )
