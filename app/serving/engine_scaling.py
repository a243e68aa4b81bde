"""The scheduler's side of autoscaling: from what the core sees and the cluster holds to a target."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace

from ray.exceptions import RayError

from app.config import ApplicationConfig
from app.flow.autoscale import Autoscaler, Decision, Load, Reason, ScalePolicy, lean
from app.status.history import ScaleLog
from placement.ray_nodes import read_free
from placement.room import Room, room

logger = logging.getLogger("ray.serve")

# Twice as often as Serve takes the figure.
DECIDE_INTERVAL_S = 0.5
# Nodes come and go in minutes; a replica that has just started or ended takes this long to show.
ROOM_INTERVAL_S = 3.0
# An unchanged target is logged this often, with its inputs.
LOG_INTERVAL_S = 60.0
# Worth telling though the target stays.
MORE_WANTED = frozenset({Reason.MAXIMUM, Reason.UNPLACEABLE})


class EngineScaling:
    """Decides twice a second. `load` gives what the scheduler sees, None while it knows of nothing;
    `unplaced` how many of the engines that start hold nothing of the cluster yet."""

    def __init__(
        self, config: ApplicationConfig, load: Callable[[], Load | None], unplaced: Callable[[], int]
    ) -> None:
        self._config = config
        self._load = load
        self._unplaced = unplaced
        self._autoscaler = Autoscaler(_scale_policy(config))
        self._room: Room | None = None
        self._logged_s = -LOG_INTERVAL_S
        self.decision: Decision | None = None
        self.log = ScaleLog()

    async def run(self) -> None:
        """For ever."""
        looking: asyncio.Task[None] | None = None
        if not self._config.replicas.cluster_grows and self._config.replicas.max > 1:
            looking = asyncio.get_running_loop().create_task(self._look_for_ever())
        try:
            while True:
                self._decide(self._load(), time.monotonic(), time.time())
                await asyncio.sleep(DECIDE_INTERVAL_S)
        finally:
            if looking is not None:
                looking.cancel()

    def _decide(self, load: Load | None, now_s: float, wall_s: float) -> None:
        """`now_s` never goes back, as the clock on the wall may; people are told `wall_s`."""
        if load is not None and self._room is not None:
            here = load.running + load.starting - self._unplaced()
            load = replace(load, placeable=here + self._room.replicas, missing=self._room.missing)
        before, self.decision = self.decision, self._autoscaler.decide(load, now_s)
        changed = before is None or (before.target, before.reason) != (
            self.decision.target,
            self.decision.reason,
        )
        self._tell(self.decision, wall_s)
        if changed or now_s - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now_s
            _log(self.decision, load)

    def _tell(self, decision: Decision, wall_s: float) -> None:
        """For a person: what changes the target, and what keeps it from what is wanted."""
        told = self.log.newest
        moved = told is None or told.engines != decision.target
        if decision.reason in MORE_WANTED or (moved and decision.reason is not Reason.NO_DATA):
            self.log.add(decision.target, _because(decision), wall_s)

    async def _look_for_ever(self) -> None:
        parallel, most = self._config.parallel, self._config.replicas.max
        while True:
            with contextlib.suppress(RayError):
                free = await asyncio.to_thread(read_free)
                self._room = room(free, parallel.bundles, parallel.strategy, most)
            await asyncio.sleep(ROOM_INTERVAL_S)


def _because(decision: Decision) -> str:
    missing = f" ({decision.missing} missing)" if decision.reason is Reason.UNPLACEABLE else ""
    return decision.reason.value + missing


def _log(decision: Decision, load: Load | None) -> None:
    inputs = "nothing is known" if load is None else ", ".join(f"{k}={v}" for k, v in asdict(load).items())
    logger.info(
        "Engines: %d, %s; wanted %d; %s",
        decision.target,
        _because(decision),
        decision.wanted,
        inputs,
    )


def _scale_policy(config: ApplicationConfig) -> ScalePolicy:
    replicas = config.replicas
    policy = ScalePolicy(
        min_replicas=replicas.min,
        max_replicas=replicas.max,
        target_queue_depth=replicas.target_queue_depth,
        queue_only=replicas.scale_on == "queue",
        upscale_delay_s=replicas.upscale_delay_s,
        downscale_delay_s=replicas.downscale_delay_s,
        idle_s=replicas.idle_s,
    )
    return lean(policy) if replicas.headroom == "lean" else policy
