"""Whether Serve takes the whole application away: app/serving/withdraw.py, or any `serve.delete`."""

from __future__ import annotations

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus


def is_being_deleted() -> bool:
    """Blocks for one call to Serve's controller; False while that does not answer, or outside of Serve."""
    try:
        name = serve.get_replica_context().app_name
        application = serve.status().applications.get(name)
    except (RayError, RayServeException):
        return False
    return application is not None and application.status == ApplicationStatus.DELETING
