"""One vLLM engine with vLLM's own OpenAI application on a private port."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from typing import Any

from prometheus_client import REGISTRY

from app.config import ApplicationConfig
from app.contract import RANKS_PATH
from app.engine.arguments import uses_ray_workers, vllm_arguments
from app.engine.guard import Guard
from app.engine.leases import LiveLeases
from app.engine.phases import Phases
from app.engine.stall import StallWatch
from app.hosts import family

logger = logging.getLogger("ray.serve")

# Connections that a gateway keeps open; it holds one a running request.
LISTEN_BACKLOG = 2048
WORKER_EXTENSION = "app.engine.worker_extension.WorkerExtension"
KEEP_ALIVE_S = 120


class EngineServer:
    """A started engine. `port` listens on `host`, `secret` opens it, `vitals` tell its state."""

    def __init__(
        self, engine: Any, app: Any, vitals: Any, host: str, stall_s: float, reader_stall_s: float
    ) -> None:
        self._engine = engine
        # As long as a gateway waits for a client that reads nothing.
        self._flush_timeout_s = reader_stall_s
        self.vitals = vitals
        self._stall = StallWatch(stall_s)
        self.leases = LiveLeases()
        self.host = host
        self.secret = secrets.token_urlsafe(32)
        self._socket = socket.create_server((host, 0), family=family(host), backlog=LISTEN_BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._server = _http_server(Guard(app, self.leases, self.secret, lambda: self.healthy))
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))

    @classmethod
    async def start(
        cls, config: ApplicationConfig, model_path: str, host: str, placement_group: Any = None
    ) -> EngineServer:
        """Loads the model and opens the port. Takes seconds to minutes; imports vLLM."""
        phases = Phases(time.monotonic)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.third_party import pynvml
        from vllm.usage.usage_lib import UsageContext
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        from app.engine.gpus import GpuCollector
        from app.engine.metering import MeteredEngine
        from app.engine.ranks import RankStates
        from app.engine.vitals import Vitals

        phases.end("import")
        arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(vllm_arguments(config, model_path))
        vllm_config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config(
            usage_context=UsageContext.OPENAI_API_SERVER
        )
        if uses_ray_workers(config):
            vllm_config.parallel_config.placement_group = placement_group
        vllm_config.parallel_config.worker_extension_cls = WORKER_EXTENSION
        vitals = Vitals(vllm_config)
        phases.end("configuration")
        engine = MeteredEngine.from_vllm_config(
            vllm_config=vllm_config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            stat_loggers=[lambda *_: vitals],
        )
        # Weights, profile and warm-up together: vLLM's own log, which splits them, shows warnings only.
        phases.end("core")
        engine.coalesce_s = config.engine.coalesce_ms / 1000
        vitals.on_finished = engine.has_finished
        tasks = await engine.get_supported_tasks()
        app = build_app(arguments, tasks, engine.model_config)
        await init_app_state(engine, app.state, arguments, tasks)
        # The registry that vLLM's own page shows.
        REGISTRY.register(GpuCollector(pynvml))
        app.add_route(RANKS_PATH, RankStates(engine).answer)
        phases.end("application")
        logger.info("The engine has started in %s.", phases)
        return cls(engine, app, vitals, host, config.engine.stall_s, config.gateway.reader_stall_s)

    @property
    def healthy(self) -> bool:
        """False once the engine core, a worker or the listener is gone, or the core makes no steps."""
        unfinished = self._engine.output_processor.has_unfinished_requests()
        stalled = self._stall.stalled(unfinished, self.vitals.records, time.monotonic())
        return not stalled and not self._engine.errored and not self._serving.done()

    async def stop(self) -> None:
        """Ends the listener, once slow readers have taken what is theirs, the engine core and its workers."""
        self._server.should_exit = True
        await asyncio.wait({self._serving}, timeout=self._flush_timeout_s)
        self._engine.shutdown(timeout=0)


def _http_server(app: Any) -> Any:
    import uvicorn
    from vllm.entrypoints.launchers.launcher import NoSignalServer

    return NoSignalServer(
        uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            lifespan="on",
            log_level="warning",
            access_log=False,
            # Left to configure logging it would close the handlers of the process, Serve's among them, and
            # Serve's controller gives up a replica without them when it restarts.
            log_config=None,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )


def point_at_cluster(address: str) -> None:
    """The engine core connects to Ray by this variable; without it, it would start a cluster of its own."""
    os.environ["RAY_ADDRESS"] = address
