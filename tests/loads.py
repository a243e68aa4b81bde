"""A load as an autoscaler is told of it; tests `replace` what they are about."""

from __future__ import annotations

from app.flow.autoscale import Load

# Nothing happens. Ten places an engine, ten seconds a request: an engine does one request a second.
IDLE = Load(
    queued=0,
    in_flight=0,
    offered_per_s=0.0,
    service_s=10.0,
    places_per_replica=10.0,
    running=1,
    starting=0,
    start_s=60.0,
)
