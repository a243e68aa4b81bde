"""The gateway's control plane: its line to the scheduler, and Serve's handles for the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import grpc  # type: ignore[import-untyped]
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from app.contract import Closing, Reply, SchedulerAddress, SchedulerView
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket, Usage
from app.serving.scheduler_line import TIMEOUT_S, SchedulerLine
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
        self._line = SchedulerLine(self._who_leads, http, gateway_id)

    async def keep_line(self) -> None:
        """For ever: stays connected to the scheduler."""
        await self._line.keep()

    async def acquire(self, ticket: Ticket) -> Reply:
        return await self._line.submit(ticket)

    async def close(self, ticket_id: str, outcome: Outcome, usage: Usage | None) -> None:
        await self._line.close(Closing(ticket_id, outcome, usage))

    async def _who_leads(self) -> SchedulerAddress:
        return await _answer(self._scheduler.address.remote())

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
        # Serve's router waits for a replica for ever.
        async with asyncio.timeout(TIMEOUT_S):
            return await call
    except RayTaskError:
        raise  # The replica lives and has raised: the method's own error.
    except (RayError, RayServeException, grpc.aio.AioRpcError) as error:
        raise ConnectionError(str(error)) from error
    except TimeoutError as error:
        raise ConnectionError(f"no scheduler answers within {TIMEOUT_S:g} s") from error
