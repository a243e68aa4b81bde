"""Whether Serve is taking an application away: app/serving/withdraw.py, or any `serve.delete`."""

from __future__ import annotations

import logging

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

logger = logging.getLogger("ray.serve")

# Streams take seconds to end: a few more in which leases are granted are no harm, and each look costs the
# controller and the scheduler 20 ms (Serve pickles every router of the application for it).
DELETION_CHECK_INTERVAL_S = 3.0


def is_being_deleted() -> bool:
    """Blocks for one call to Serve's controller; False while that does not answer, or outside of Serve."""
    try:
        name = serve.get_replica_context().app_name
        application = serve.status().applications.get(name)
    except (RayError, RayServeException):
        return False
    return application is not None and application.status == ApplicationStatus.DELETING
