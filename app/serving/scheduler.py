"""The scheduler deployment: one replica that owns the only FlowController and gives it the time."""

from __future__ import annotations

import asyncio
import time

from app.config import ApplicationConfig
from app.contract import EnginePort, Grant, Refusal, SchedulerView
from app.flow.controller import FlowController, Limits
from app.flow.outcome import Outcome
from app.flow.ticket import Action, Granted, Refused, ReplicaReport, Ticket
from app.serving.scheduler_metrics import SchedulerMetrics

# How late an expiry may be noticed.
TICK_INTERVAL_S = 0.1


class SchedulerReplica:
    """Turns calls into events and the core's actions into answers."""

    def __init__(self, config: ApplicationConfig) -> None:
        self._flow = FlowController(
            Limits(
                max_queued=config.scheduler.max_queued,
                max_queue_wait_s=config.scheduler.max_queue_wait_s,
                requests_per_replica=config.requests_per_replica(),
                lease_ttl_s=config.scheduler.lease_ttl_s,
                replica_ttl_s=config.scheduler.replica_ttl_s,
            )
        )
        self._metrics = SchedulerMetrics()
        self._waiting: dict[str, asyncio.Future[Grant | Refusal | None]] = {}
        self._ports: dict[str, EnginePort] = {}
        self._ticking = asyncio.get_running_loop().create_task(self._tick_for_ever())

    async def acquire(self, ticket: Ticket) -> Grant | Refusal | None:
        """A place for the ticket, when its turn has come; None when it was closed while it waited.

        A ticket that is submitted again (its first call was lost) takes over the earlier wait.
        """
        self._settle(ticket.ticket_id, None)
        answer: asyncio.Future[Grant | Refusal | None] = asyncio.get_running_loop().create_future()
        self._waiting[ticket.ticket_id] = answer
        self._perform(self._flow.submit(ticket, time.time()))
        return await answer

    async def close(self, ticket_id: str, outcome: Outcome, output_tokens: int = 0) -> None:
        """The request has ended, in the queue or on an engine."""
        self._perform(self._flow.close(ticket_id, outcome, time.time()))
        self._metrics.add_output_tokens(output_tokens)
        self._settle(ticket_id, None)

    async def report(self, report: ReplicaReport, port: EnginePort) -> float:
        """An engine's sign of life; answers with the queue depth, for Serve's autoscaling."""
        self._ports[report.replica_id] = port
        self._perform(self._flow.report(report, time.time()))
        snapshot = self._flow.snapshot(time.time())
        self._ports = {id_: self._ports[id_] for id_ in snapshot.in_flight_by_replica}
        return float(snapshot.queued)

    async def replica_gone(self, replica_id: str) -> None:
        """An engine has died or is about to stop."""
        self._perform(self._flow.replica_gone(replica_id, time.time()))

    async def replica_unroutable(self, replica_id: str) -> None:
        """A gateway can't reach an engine that still reports: Serve is stopping or starting it."""
        self._flow.replica_unroutable(replica_id, time.time())

    async def view(self) -> SchedulerView:
        snapshot = self._flow.snapshot(time.time())
        self._metrics.observe(snapshot)
        return SchedulerView(
            replicas_ready=snapshot.replicas_ready,
            queued=snapshot.queued,
            in_flight=snapshot.in_flight,
            metrics=self._metrics.text(),
            engines=tuple(self._ports[id_] for id_ in sorted(snapshot.in_flight_by_replica)),
        )

    async def check_health(self) -> None:
        """Raises when the clock of the queue has stopped."""
        if self._ticking.done():
            error = None if self._ticking.cancelled() else self._ticking.exception()
            raise RuntimeError("scheduler: the tick task has ended") from error

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TICK_INTERVAL_S)
            self._perform(self._flow.tick(time.time()))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Granted):
                self._grant(action)
            elif isinstance(action, Refused):
                self._settle(action.ticket_id, Refusal(action.outcome, action.retry_after_s))

    def _grant(self, action: Granted) -> None:
        self._metrics.observe_queue_wait(action.queue_wait_s)
        port = self._ports[action.lease.replica_id]
        self._settle(action.lease.ticket_id, Grant(port, action.queue_wait_s))

    def _settle(self, ticket_id: str, answer: Grant | Refusal | None) -> None:
        waiting = self._waiting.pop(ticket_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
