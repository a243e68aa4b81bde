"""What is read of a gateway without a lease: health, readiness, figures, ranks, the model, the document."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import aiohttp
from starlette.responses import Response

from app.contract import RANKS_PATH, ControlPlane, Refusal, SchedulerView
from app.flow.outcome import Outcome
from app.gateway.errors import refused, scheduler_unreachable
from app.gateway.metrics import engine_metrics
from app.gateway.openapi import document
from app.gateway.ranks import engine_ranks
from app.gateway.requests import Window
from app.gateway.shared import Shared

# Whoever asks whether it is ready asks again; a start takes far longer than this.
VIEW_KEEP_S = 0.25
# A look costs little.
READY_RETRY_AFTER_S = 1

Read = Callable[[], Awaitable[Response]]
T = TypeVar("T")


class Reads:
    """By their paths, `open` without a key and `keyed` with one; each raises ApiError.

    However many ask at a time, scheduler and engines are asked once.
    """

    def __init__(
        self,
        control: ControlPlane,
        http: aiohttp.ClientSession,
        window: Window,
        keyed_elsewhere: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`keyed_elsewhere`: the other paths that the document names, served by somebody else."""
        self._control = control
        self._http = http
        self._window = window
        self._started_s = int(time.time())
        self._view = Shared(self._light_view, VIEW_KEEP_S, clock)
        self._figures = Shared(self._all_metrics, 0.0, clock)
        self._every_rank = Shared(self._all_ranks, 0.0, clock)
        self.open: dict[str, Read] = {
            "/health": self._health,
            "/ready": self._ready,
            "/metrics": self._metrics,
            "/openapi.json": self._document,
        }
        self.keyed: dict[str, Read] = {
            RANKS_PATH: self._ranks,
            "/v1/models": self._models,
            f"/v1/models/{window.model}": self._model,
        }
        self._openapi = _as_json(document(window, self.open, {*self.keyed, *keyed_elsewhere}))

    async def _health(self) -> Response:
        return _json(_as_json({"status": "ok"}))

    async def _ready(self) -> Response:
        view = await _seen(self._view)
        if view.replicas_ready == 0 and not view.wakes:
            raise refused(Refusal(Outcome.REJECTED_NO_ENGINE, READY_RETRY_AFTER_S))
        state = {"status": "ready", "replicas": view.replicas_ready, "queued": view.queued}
        return _json(_as_json(state))

    async def _light_view(self) -> SchedulerView:
        return await self._control.view(metrics=False)

    async def _metrics(self) -> Response:
        return Response(await _seen(self._figures), media_type="text/plain; version=0.0.4")

    async def _all_metrics(self) -> bytes:
        view = await self._control.view()
        return (view.metrics + await engine_metrics(self._http, view.engines)).encode()

    async def _ranks(self) -> Response:
        return _json(await _seen(self._every_rank))

    async def _all_ranks(self) -> bytes:
        view = await self._view.get()
        return _as_json({"ranks": await engine_ranks(self._http, view.engines)})

    async def _document(self) -> Response:
        return _json(self._openapi)

    async def _models(self) -> Response:
        return _json(_as_json({"object": "list", "data": [self._card()]}))

    async def _model(self) -> Response:
        return _json(_as_json(self._card()))

    def _card(self) -> dict[str, object]:
        return {
            "id": self._window.model,
            "object": "model",
            "created": self._started_s,
            "owned_by": "promiseserve",
            "max_model_len": self._window.max_model_len,
        }


async def _seen(shared: Shared[T]) -> T:
    try:
        return await shared.get()
    except ConnectionError:
        raise scheduler_unreachable() from None


def _as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
