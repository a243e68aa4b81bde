"""The span of a request at the gateway, and what it tells of it, in OpenTelemetry's GenAI names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.trace import Span, StatusCode

from app.contract import Grant
from app.gateway.errors import ApiError
from app.gateway.requests import Request
from app.tracing import root


@contextmanager
def request_span(path: str, traceparent: str | None = None) -> Iterator[Span]:
    """From the first look at the request to the last byte of its answer; refusals are told by their code."""
    span = root(f"POST {path}", traceparent)
    try:
        yield span
    except ApiError as error:
        span.set_attributes({"http.response.status_code": error.status, "error.type": error.code})
        # A refusal is the client's to see, not an error of the application.
        if error.status == 500:
            span.set_status(StatusCode.ERROR, str(error))
        raise
    finally:
        span.end()


def describe(span: Span, request: Request, model: str) -> None:
    """What is asked for, and by whom."""
    if span.is_recording():
        ticket = request.ticket
        span.set_attributes(
            {
                "gen_ai.operation.name": ticket.operation,
                "gen_ai.provider.name": "promiseserve",
                "gen_ai.request.model": model,
                "gen_ai.request.stream": request.stream,
                "gen_ai.request.max_tokens": ticket.max_output_tokens,
                "gen_ai.usage.input_tokens": ticket.prompt_tokens,
                "promiseserve.tenant": ticket.tenant,
            }
        )


def describe_grant(span: Span, ticket_id: str, grant: Grant) -> None:
    """What it got."""
    if span.is_recording():
        span.set_attributes(
            {
                "gen_ai.response.id": ticket_id,
                "promiseserve.class": grant.class_name,
                "promiseserve.replica": grant.engine.replica_id,
                "promiseserve.queue_wait_s": grant.queue_wait_s,
                "promiseserve.predicted_ttft_s": grant.predicted_ttft_s or 0.0,
            }
        )
