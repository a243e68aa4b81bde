"""The Python face: the same requests as dictionaries, the same refusals as exceptions."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.trace import Span

from app import sse
from app.gateway.errors import ApiError, engine_lost, half_pair, internal_error, reader_stalled
from app.gateway.exchange import Exchange
from app.gateway.patience import ReaderWatch
from app.gateway.redaction import where
from app.gateway.requests import Request, Window, read
from app.gateway.spans import describe, request_span
from app.gateway.tenants import Tenants

logger = logging.getLogger("ray.serve")


class CallFace:
    """One method for whole answers, one for streams; both raise ApiError."""

    def __init__(
        self, exchange: Exchange, window: Window, keys: Tenants, reader_stall_s: float = math.inf
    ) -> None:
        self._exchange = exchange
        self._window = window
        self._keys = keys
        self._reader_stall_s = reader_stall_s

    async def call(self, path: str, body: dict[str, Any], api_key: str | None) -> dict[str, Any]:
        """The whole answer."""
        with _only_api_errors(), request_span(path) as span:
            request = await self._request(path, body, api_key, span, stream=False)
            async with self._exchange.answer(request, span) as answer:
                return json.loads(b"".join([chunk async for chunk in answer.chunks]))

    async def stream(
        self, path: str, body: dict[str, Any], api_key: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        """The answer's chunks as they are made. For who takes none for `reader_stall_s` the answer ends: as
        long as nobody asks for the next, this stands still, and the engine with it."""
        with _only_api_errors(), request_span(path) as span:
            request = await self._request(path, body, api_key, span, stream=True)
            async with self._exchange.answer(request, span) as answer:
                failure: ApiError | None = None
                with ReaderWatch(self._reader_stall_s, answer.abandon) as watch:
                    # To the end, also of what has failed: there the engine says so, and what was used.
                    async for event in sse.data_of(answer.chunks):
                        payload = json.loads(event)
                        if "error" in payload:
                            failure = _from_event(payload["error"])
                        else:
                            watch.waits()
                            yield payload
                            watch.took()
                            if watch.over:
                                raise reader_stalled(self._reader_stall_s)
                if failure is not None:
                    raise failure

    async def _request(
        self, path: str, body: dict[str, Any], api_key: str | None, span: Span, stream: bool
    ) -> Request:
        tenant = self._keys.tenant(api_key)
        request = await read(path, _encoded(body, stream), self._window, tenant)
        describe(span, request, self._window.model)
        return request


@contextmanager
def _only_api_errors() -> Iterator[None]:
    """What else is raised could quote the request, to the caller and in Serve's log."""
    try:
        yield
    except ApiError:
        raise
    except Exception as error:
        logger.error("A call has failed: %s", where(error))
        raise internal_error() from None


def _encoded(body: dict[str, Any], stream: bool) -> bytes:
    """The body as JSON, in the bytes that it has over HTTP. Raises ApiError for what JSON can't hold."""
    try:
        given = {**body, "stream": stream}
        if not stream:
            # vLLM has options of a stream only where there is one.
            given.pop("stream_options", None)
        return json.dumps(given, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise half_pair("body", error) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ApiError(400, "invalid_type", f"body: not a JSON object: {error}", "body") from None


def _from_event(error: dict[str, Any]) -> ApiError:
    """The error event that ends a stream, with the status that it has over HTTP before a stream begins."""
    if error.get("code") == "engine_lost":
        return engine_lost()
    return ApiError(500, str(error.get("code")), str(error.get("message")), error.get("param"))
