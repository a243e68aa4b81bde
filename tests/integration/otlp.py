"""An OpenTelemetry collector that keeps what it is sent: OTLP over HTTP, in this process."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Received:
    """A span; times in seconds since the epoch."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start_s: float
    end_s: float
    attributes: dict[str, object] = field(hash=False)

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


class Collector:
    """`spans` of all services, in the order of their arrival."""

    def __init__(self, port: int) -> None:
        self.spans: list[Received] = []
        self.endpoint = f"http://127.0.0.1:{port}/v1/traces"

    @classmethod
    @contextlib.contextmanager
    def started(cls) -> Iterator[Collector]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.collector = cls(server.server_port)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.collector
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def trace(self, trace_id: str) -> list[Received]:
        return [span for span in list(self.spans) if span.trace_id == trace_id]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.collector.spans.extend(_spans(ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


def _spans(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for of_resource in request.resource_spans:
        service = str(_attributes(of_resource.resource.attributes).get("service.name"))
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Received(
                    service,
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano / 1e9,
                    span.end_time_unix_nano / 1e9,
                    _attributes(span.attributes),
                )


def _attributes(pairs) -> dict[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
