"""Where a request's time goes, as OpenTelemetry spans; without an endpoint nothing here does anything.

    POST /v1/... (gateway)   the whole request
      lease (gateway)        asking the scheduler
        queue (scheduler)    waiting for a place
      network (gateway)      the request at its engine, first byte to last
        prefill (engine)     up to the first token
        decode (engine)      up to the last
        llm_request          vLLM's own
What a span has beyond its children is its own time: `lease` is the way to the scheduler and back, `network`
is HTTP, JSON and the way to the client. Contexts travel as W3C `traceparent`: from the client, in the ticket,
to the engine.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Span,
    SpanKind,
    get_tracer,
    set_span_in_context,
    set_tracer_provider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.config import TracingConfig

TRACEPARENT = "traceparent"
# Spans are small: one call a second carries them.
EXPORT_INTERVAL_MS = 1000

# Until a provider is set it makes spans that are not valid.
_tracer = get_tracer("promiseserve")
_propagator = TraceContextTextMapPropagator()


def configure(config: TracingConfig, service: str) -> None:
    """Spans of this process go to the endpoint as `service`'s. Once a process, before its first request."""
    if config.otlp_traces_endpoint is None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    provider = TracerProvider(
        resource=Resource.create({"service.name": service}),
        sampler=ParentBasedTraceIdRatio(config.sample_ratio),
    )
    exporter = OTLPSpanExporter(endpoint=config.otlp_traces_endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_INTERVAL_MS))
    set_tracer_provider(provider)


def root(name: str, traceparent: str | None) -> Span:
    """The span of a request, within the client's trace if there is one. When tracing is off it is that
    trace's own context, and not valid where there is none."""
    return _tracer.start_span(name, _context(traceparent), SpanKind.SERVER)


def child(parent: Span, name: str) -> Span:
    """The caller ends it."""
    if not parent.get_span_context().is_valid:
        return INVALID_SPAN
    return _tracer.start_span(name, set_span_in_context(parent), SpanKind.CLIENT)


def traceparent_of(span: Span) -> str:
    """For whoever is called; empty when tracing is off."""
    if not span.get_span_context().is_valid:
        return ""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, set_span_in_context(span))
    return carrier[TRACEPARENT]


def record(traceparent: str, name: str, start_s: float, end_s: float) -> None:
    """A span of what was done for another process's request; seconds since the epoch."""
    if traceparent:
        span = _tracer.start_span(name, _context(traceparent), SpanKind.SERVER, start_time=_ns(start_s))
        span.end(_ns(max(start_s, end_s)))


def _context(traceparent: str | None) -> Context:
    return _propagator.extract({TRACEPARENT: traceparent}) if traceparent else Context()


def _ns(epoch_s: float) -> int:
    return int(epoch_s * 1e9)
