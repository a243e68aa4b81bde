"""The engine deployment: one replica is one vLLM engine over one placement group."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import aiohttp
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.util import get_current_placement_group

from app.config import ApplicationConfig
from app.contract import EnginePort, EngineReport
from app.descendants import kill_with_descendants
from app.engine import models
from app.engine.server import EngineServer, point_at_cluster
from app.engine.start_watch import bounded_start
from app.flow.ticket import ReplicaReport
from app.serving.scheduler_handle import tell, who_leads
from app.serving.scheduler_line import SchedulerLine
from app.serving.scheduler_port import ENGINE_HEADER

logger = logging.getLogger("ray.serve")

REPORT_INTERVAL_S = 1.0
# After a report that has found the scheduler dead: the next goes to the spare, which waits for it.
RETRY_INTERVAL_S = 0.1
# Between two looks whether the scheduler that hears it still leads. Each is a call over Serve's handle, and
# the end of the connection says most of it.
LOOK_INTERVAL_S = 5.0
# Before a drained engine goes: a lease that was granted before its report may still come, and gateways may
# have yet to read the end of the last answers and to close their tickets.
QUIET_S = 2.0


class EngineReplica:
    """Starts the engine, reports to the scheduler, and drains when it is to stop."""

    async def __init__(  # type: ignore[misc]
        self, config: ApplicationConfig, scheduler: DeploymentHandle
    ) -> None:
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._scheduler = scheduler
        self._draining = False
        await tell(self._scheduler.starting, self._replica_id)
        try:
            point_at_cluster(ray.get_runtime_context().gcs_address)
            with bounded_start(config.engine.start_timeout_s):
                self._server = await EngineServer.start(
                    config,
                    models.prepare(config.model.source, progress=logger.info),
                    host=ray.util.get_node_ip_address(),
                    placement_group=get_current_placement_group(),
                )
        except BaseException:
            await self._gone()
            raise
        self._http = aiohttp.ClientSession()
        self._line = SchedulerLine(
            partial(who_leads, scheduler),
            self._http,
            self._replica_id,
            look_interval_s=LOOK_INTERVAL_S,
            header=ENGINE_HEADER,
        )
        work = (self._report_for_ever(), self._tell_first_tokens(), self._line.keep())
        self._tasks = [asyncio.create_task(one) for one in work]

    async def check_health(self) -> None:
        """Raises when the engine core or a worker is dead; being busy is not being ill."""
        if not self._server.healthy:
            raise RuntimeError("engine: the engine core or one of its workers has died")
        if any(task.done() for task in self._tasks):
            raise RuntimeError("engine: the reports to the scheduler have ended")

    async def _report_for_ever(self) -> None:
        while self._server.healthy:
            told = await self._report()
            await asyncio.sleep(REPORT_INTERVAL_S if told else RETRY_INTERVAL_S)
        await self._die()

    async def _die(self) -> None:
        """Serve would ask three times before it believes in an ill replica; one that has ended it replaces at
        once. Requests that are still here see their connections break."""
        logger.error("The engine has died; no more leases for this replica.")
        await self._gone()
        kill_with_descendants()

    async def _gone(self) -> None:
        await tell(self._scheduler.replica_gone, self._replica_id)

    async def _report(self) -> bool:
        """Whether the scheduler hears it; one that restarts does not, and is told all by the next."""
        server = self._server
        state = ReplicaReport(self._replica_id, server.leases.ids(), self._draining, server.vitals.metrics())
        port = EnginePort(self._replica_id, server.host, server.port, server.secret)
        try:
            await self._line.report(EngineReport(state, port, server.leases.output_tokens()))
        except ConnectionError:
            return False
        return True

    async def _drain(self) -> None:
        """No more leases; what runs goes on until it has ended."""
        self._draining = True
        await self._report()
        await self._server.leases.close(QUIET_S)

    async def _tell_first_tokens(self) -> None:
        leases = self._server.leases
        while True:
            news = await leases.first_tokens()
            try:
                await self._line.first_tokens(news)
            except ConnectionError:
                await asyncio.sleep(RETRY_INTERVAL_S)
                # What has ended can't be taken back any more: no more is kept than runs.
                live = leases.ids()
                leases.note_first_tokens(*(one for one in news if one.ticket_id in live))

    async def __del__(self) -> None:
        """Serve calls it when the replica is to stop, and ends the process `drain_s` later at the latest."""
        if not hasattr(self, "_tasks"):
            await self._gone()  # Before it has started.
            return
        await self._drain()
        for task in self._tasks:
            task.cancel()
        try:
            await self._gone()
        finally:
            await self._http.close()
            await self._server.stop()
