"""One vLLM engine with vLLM's own OpenAI application on a private port."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from typing import Any

from app.config import ApplicationConfig
from app.engine.arguments import uses_ray_workers, vllm_arguments
from app.engine.guard import Guard
from app.engine.leases import LiveLeases
from app.engine.phases import Phases

logger = logging.getLogger("ray.serve")

# Connections that a gateway keeps open; it holds one a running request.
LISTEN_BACKLOG = 2048
KEEP_ALIVE_S = 120


class EngineServer:
    """A started engine. `port` listens on `host`, `secret` opens it, `vitals` tell its state."""

    def __init__(self, engine: Any, app: Any, vitals: Any, host: str) -> None:
        self._engine = engine
        self.vitals = vitals
        self.leases = LiveLeases()
        self.host = host
        self.secret = secrets.token_urlsafe(32)
        self._socket = socket.create_server((host, 0), backlog=LISTEN_BACKLOG)
        self.port: int = self._socket.getsockname()[1]
        self._server = _http_server(Guard(app, self.leases, self.secret))
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
        from vllm.usage.usage_lib import UsageContext
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        from app.engine.metering import MeteredEngine
        from app.engine.vitals import Vitals

        phases.end("import")
        arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(vllm_arguments(config, model_path))
        vllm_config = AsyncEngineArgs.from_cli_args(arguments).create_engine_config(
            usage_context=UsageContext.OPENAI_API_SERVER
        )
        if uses_ray_workers(config):
            vllm_config.parallel_config.placement_group = placement_group
        vitals = Vitals(vllm_config)
        phases.end("configuration")
        engine = MeteredEngine.from_vllm_config(
            vllm_config=vllm_config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            stat_loggers=[lambda *_: vitals],
        )
        # Weights, profile and warm-up: the core's own log splits them.
        phases.end("core")
        engine.coalesce_s = config.engine.coalesce_ms / 1000
        tasks = await engine.get_supported_tasks()
        app = build_app(arguments, tasks, engine.model_config)
        await init_app_state(engine, app.state, arguments, tasks)
        phases.end("application")
        logger.info("The engine has started in %s.", phases)
        return cls(engine, app, vitals, host)

    @property
    def healthy(self) -> bool:
        """False once the engine core, one of its workers or the listener is gone."""
        return not self._engine.errored and not self._serving.done()

    def stop(self) -> None:
        """Ends the listener, the engine core and its workers."""
        self._server.should_exit = True
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
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )


def point_at_cluster(address: str) -> None:
    """The engine core connects to Ray by this variable; without it, it would start a cluster of its own."""
    os.environ["RAY_ADDRESS"] = address
