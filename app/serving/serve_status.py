"""What Serve says of this application. Each question blocks for one call to Serve's controller."""

from __future__ import annotations

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

ENGINES = "Engine"
STARTING = "STARTING"


def is_being_deleted() -> bool:
    """Whether the whole application is taken away: app/serving/withdraw.py, or any `serve.delete`. False
    while nobody answers, or outside of Serve."""
    application = _application()
    return application is not None and application.status == ApplicationStatus.DELETING


def engine_is_starting() -> bool:
    """Whether an engine has begun to start and is not there yet. False as above."""
    application = _application()
    engines = None if application is None else application.deployments.get(ENGINES)
    return engines is not None and engines.replica_states.get(STARTING, 0) > 0


def _application() -> ApplicationStatusOverview | None:
    try:
        name = serve.get_replica_context().app_name
        return serve.status().applications.get(name)
    except (RayError, RayServeException):
        return None
