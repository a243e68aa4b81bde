"""Calls to the scheduler over Serve's handle: who leads, and what is too rare for a connection of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

import grpc  # type: ignore[import-untyped]
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from app.contract import SchedulerAddress

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

TIMEOUT_S = 5.0


async def answered(call: Awaitable[T]) -> T:
    """Its answer. Raises ConnectionError where Serve says that nobody answers, and what the scheduler raised
    where it failed: by Ray as a RayTaskError, by gRPC as it was."""
    try:
        # Serve's router waits for a replica for ever.
        async with asyncio.timeout(TIMEOUT_S):
            return await call
    except RayTaskError:
        raise
    except (RayError, RayServeException, grpc.aio.AioRpcError) as error:
        raise ConnectionError(str(error)) from error
    except TimeoutError as error:
        raise ConnectionError(f"no scheduler answers within {TIMEOUT_S:g} s") from error


async def who_leads(scheduler: DeploymentHandle) -> SchedulerAddress:
    """Raises ConnectionError where nobody does, or who does can't say where it listens."""
    try:
        address: SchedulerAddress = await answered(scheduler.address.remote())
    except ConnectionError:
        raise
    except Exception as error:
        logger.exception("The scheduler failed on where it listens")
        raise ConnectionError("the scheduler does not say where it listens") from error
    return address


async def tell(method: DeploymentHandle, replica_id: str) -> None:
    """What an engine says once: that it starts, that it goes. Nobody ends for a scheduler that fails on it or
    does not hear it: all engines would at once."""
    try:
        await answered(method.remote(replica_id))
    except ConnectionError:
        pass  # It learns it from reports, or from their absence.
    except Exception:
        logger.exception("The scheduler failed on what engine %s told it", replica_id)
