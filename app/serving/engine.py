"""The engine deployment: one replica is one vLLM engine over one placement group."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import grpc  # type: ignore[import-untyped]
import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.util import get_current_placement_group

from app.config import ApplicationConfig
from app.contract import EnginePort, SchedulerAddress
from app.engine import models
from app.engine.killing import kill_with_children
from app.engine.server import EngineServer, point_at_cluster
from app.engine.start_watch import bounded_start
from app.flow.ticket import ReplicaReport
from app.serving.scheduler_line import SchedulerLine
from app.serving.scheduler_port import ENGINE_HEADER

logger = logging.getLogger("ray.serve")

REPORT_INTERVAL_S = 1.0
# After a report that has found the scheduler dead: the next goes to the spare, which waits for it.
RETRY_INTERVAL_S = 0.1
# A scheduler that is restarting answers none of them; the next report tells it all.
REPORT_TIMEOUT_S = 3.0
# Before a drained engine goes: a lease that was granted before its report may still come, and gateways may
# have yet to read the end of the last answers and to close their tickets.
QUIET_S = 2.0
# With RAY_SERVE_THROUGHPUT_OPTIMIZED the calls go by gRPC.
SCHEDULER_UNREACHABLE = (RayError, RayServeException, TimeoutError, grpc.aio.AioRpcError)


class EngineReplica:
    """Starts the engine, reports to the scheduler, and drains when it is to stop."""

    async def __init__(  # type: ignore[misc]
        self, config: ApplicationConfig, scheduler: DeploymentHandle
    ) -> None:
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._scheduler = scheduler
        self._draining = False
        await _told(self._scheduler.starting, self._replica_id)
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
        # As the last report was answered.
        self._leader: SchedulerAddress | None = None
        self._http = aiohttp.ClientSession()
        line = SchedulerLine(self._who_leads, self._http, self._replica_id, header=ENGINE_HEADER)
        work = (self._report_for_ever(), self._tell_first_tokens(line), line.keep())
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
        kill_with_children()

    async def _gone(self) -> None:
        await _told(self._scheduler.replica_gone, self._replica_id)

    async def _report(self) -> bool:
        server = self._server
        report = ReplicaReport(self._replica_id, server.leases.ids(), self._draining, server.vitals.metrics())
        port = EnginePort(self._replica_id, server.host, server.port, server.secret)
        told, leader = await _told(self._scheduler.report, report, port, server.leases.output_tokens())
        self._leader = leader or self._leader
        return told

    async def _who_leads(self) -> SchedulerAddress:
        if self._leader is None:
            raise ConnectionError("no scheduler has answered a report yet")
        return self._leader

    async def _drain(self) -> None:
        """No more leases; what runs goes on until it has ended."""
        self._draining = True
        await self._report()
        await self._server.leases.close(QUIET_S)

    async def _tell_first_tokens(self, line: SchedulerLine) -> None:
        leases = self._server.leases
        while True:
            news = await leases.first_tokens()
            try:
                await line.first_tokens(news)
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


async def _told(method: DeploymentHandle, *arguments: Any) -> tuple[bool, Any]:
    """Whether the scheduler has heard it (one that restarts has not, one that fails on it has); its answer.

    Its failure comes as a RayTaskError, by gRPC as it was raised. An engine does not end for it: all of them
    would at once.
    """
    try:
        return True, await asyncio.wait_for(method.remote(*arguments), REPORT_TIMEOUT_S)
    except Exception as error:
        if isinstance(error, SCHEDULER_UNREACHABLE) and not isinstance(error, RayTaskError):
            return False, None
        logger.exception("The scheduler failed on what an engine told it")
    return True, None
