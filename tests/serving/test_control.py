"""What a gateway learns of a scheduler that does not answer its calls."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from app.serving.control import ServeControlPlane

NO_METADATA = grpc.aio.Metadata()


async def view_of(error: Exception) -> None:
    """Asks a scheduler that answers with it."""

    async def remote(_metrics: bool) -> None:
        raise error

    scheduler = SimpleNamespace(view=SimpleNamespace(remote=remote))
    await ServeControlPlane(scheduler, "g1", None).view()


@pytest.mark.parametrize(
    "error",
    [
        RayError("gone"),
        RayServeException("gone"),
        grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, NO_METADATA, NO_METADATA),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_scheduler_that_can_not_be_reached_is_a_lost_connection(error):
    with pytest.raises(ConnectionError):
        await view_of(error)


@pytest.mark.parametrize("error", [KeyError("x"), RayTaskError("view", "", KeyError("x"))])
async def test_what_the_scheduler_itself_raises_stays_what_it_is(error):
    with pytest.raises(type(error)):
        await view_of(error)
