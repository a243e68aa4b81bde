"""The gateway's control plane: its line to the scheduler, and Serve's handles for the rest."""

from __future__ import annotations

from functools import partial

import aiohttp
from ray.serve.handle import DeploymentHandle

from app.contract import Closing, Reply, SchedulerView
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket, Usage
from app.serving.scheduler_handle import answered, who_leads
from app.serving.scheduler_line import SchedulerLine
from app.status.view import StatusView


class ServeControlPlane:
    """Raises ConnectionError where Serve says that a replica is gone, or the line to the scheduler has ended.

    `http` is the gateway's connections.
    """

    def __init__(
        self,
        scheduler: DeploymentHandle,
        gateway_id: str,
        http: aiohttp.ClientSession,
    ) -> None:
        self._scheduler = scheduler
        self._line = SchedulerLine(partial(who_leads, scheduler), http, gateway_id)

    async def keep_line(self) -> None:
        """For ever: stays connected to the scheduler."""
        await self._line.keep()

    async def acquire(self, ticket: Ticket) -> Reply:
        return await self._line.submit(ticket)

    async def close(self, ticket_id: str, outcome: Outcome, usage: Usage | None) -> None:
        await self._line.close(Closing(ticket_id, outcome, usage))

    async def replica_gone(self, replica_id: str) -> None:
        await answered(self._scheduler.replica_gone.remote(replica_id))

    async def replica_unroutable(self, replica_id: str) -> None:
        await answered(self._scheduler.replica_unroutable.remote(replica_id))

    async def view(self, metrics: bool = True) -> SchedulerView:
        return await answered(self._scheduler.view.remote(metrics))

    async def status(self) -> StatusView:
        return await answered(self._scheduler.status.remote())
