"""Contexts that come in go out, and nothing is made where tracing is off.

Spans that are really sent are in tests/integration/test_observability.py: OpenTelemetry lets a process choose
once where they go, and here nobody has.
"""

from __future__ import annotations

import pytest
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, SpanContext, TraceFlags
from pydantic import ValidationError

from app.config import TracingConfig
from app.tracing import child, configure, record, root, traceparent_of

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_off_no_span_is_valid_and_no_context_is_sent():
    configure(TracingConfig(), "a service")
    span = root("POST /v1/completions", None)
    assert not span.get_span_context().is_valid
    assert child(span, "lease") is INVALID_SPAN
    assert traceparent_of(span) == ""
    record("", "prefill", 1.0, 2.0)


def test_a_context_that_comes_in_goes_out_again():
    assert traceparent_of(root("POST /v1/completions", TRACEPARENT)) == TRACEPARENT
    span = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0)))
    # Unsampled is said too: who is told nothing begins a trace of its own.
    assert traceparent_of(child(span, "lease")) == f"00-{1:032x}-{2:016x}-00"


@pytest.mark.parametrize("nonsense", ["", "x", "00-0-0-00", "00-" + "0" * 32 + "-b7ad6b7169203331-01"])
def test_a_context_that_is_none_begins_a_new_trace(nonsense: str):
    assert traceparent_of(root("POST /v1/completions", nonsense)) == ""


@pytest.mark.parametrize("wrong", [{"otlp_traces_endpoint": "localhost:4317"}, {"sample_ratio": 1.5}])
def test_what_can_not_be_an_endpoint_or_a_share_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TracingConfig.model_validate(wrong)
