"""The gateway's control plane over Serve's handles."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from app.contract import Closing, Metered, ReplicaDiedError, Reply, SchedulerView, Waits
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket, Usage
from app.serving.attendance import ATTEND_INTERVAL_S
from app.serving.scheduler_line import SchedulerLine
from app.status.view import StatusView


class ServeControlPlane:
    """Raises ConnectionError where Serve says that a replica is gone."""

    def __init__(self, scheduler: DeploymentHandle, engine: DeploymentHandle, gateway_id: str) -> None:
        self._scheduler = scheduler
        # Looking a method up makes a new handle: once is enough for what each request calls.
        self._tell_scheduler, self._hold = scheduler.tell, engine.hold
        self._gateway_id = gateway_id
        self._line = SchedulerLine(self._tell)

    async def attend_for_ever(self) -> None:
        """Tells the scheduler that this gateway lives."""
        while True:
            with contextlib.suppress(ConnectionError, TimeoutError):
                attending = _answer(self._scheduler.attend.remote(self._gateway_id))
                await asyncio.wait_for(attending, ATTEND_INTERVAL_S)
            await asyncio.sleep(ATTEND_INTERVAL_S)

    async def acquire(self, ticket: Ticket) -> Reply:
        ticket = replace(ticket, caller=self._gateway_id)
        reply = await self._line.submit(ticket)
        if isinstance(reply, Waits):
            return await _answer(self._scheduler.acquire.remote(ticket))
        return reply

    async def close(self, ticket_id: str, outcome: Outcome, usage: Usage | None) -> None:
        await self._line.close(Closing(ticket_id, outcome, usage))

    async def _tell(self, tickets: Sequence[Ticket], closings: Sequence[Closing]) -> list[Reply | Waits]:
        return await _answer(self._tell_scheduler.remote(tickets, closings))

    async def hold(self, replica_id: str, ticket_id: str) -> Metered:
        return await _answer(self._hold.remote(replica_id, ticket_id))

    async def replica_gone(self, replica_id: str) -> None:
        await _answer(self._scheduler.replica_gone.remote(replica_id))

    async def replica_unroutable(self, replica_id: str) -> None:
        await _answer(self._scheduler.replica_unroutable.remote(replica_id))

    async def view(self, metrics: bool = True) -> SchedulerView:
        return await _answer(self._scheduler.view.remote(metrics))

    async def status(self) -> StatusView:
        return await _answer(self._scheduler.status.remote())


async def _answer(call: Any) -> Any:
    try:
        return await call
    except RayTaskError:
        raise  # The replica lives and has raised: the method's own error.
    except ActorDiedError as error:
        raise ReplicaDiedError(str(error)) from error
    except (RayError, RayServeException) as error:
        raise ConnectionError(str(error)) from error
