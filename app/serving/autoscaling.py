"""Serve's autoscaling: the scheduler decides (app/flow/autoscale.py), Serve's controller carries it out.

Serve shows a deployment's policy the figures of its own replicas only, and an application that sleeps has no
engine that could say anything. So the scheduler's deployment has a policy too: it leaves its own number as
it is, and hands on what its replica has decided. Both are called in one process, Serve's controller.
(A policy for the whole application would see both, but only a Serve file can name one: `build` can't.)
"""

from __future__ import annotations

import math
import time
from typing import Any

from ray.serve.config import AutoscalingContext

from app.serving import said

DESIRED = "desired_replicas"
# Serve's default of 10 s would be most of the time that a decision takes.
METRICS_INTERVAL_S = 0.5
# A scheduler that has said nothing for this long is restarting: hold.
STALE_S = 10.0
# A scheduler that has followed another does not know which engines are starting: it takes none back until
# they are there. A large model takes minutes.
FOLLOWER_S = 300.0


class HandOnPolicy:
    """The scheduler deployment's: takes the newest word of its replica, changes nothing itself."""

    def __init__(self) -> None:
        self._speaker: str | None = None
        self._followed_s = -math.inf

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        by_replica = (context.raw_metrics or {}).get(DESIRED, {})
        newest = {speaker: series[-1] for speaker, series in by_replica.items() if series}
        if newest:
            speaker, word = max(newest.items(), key=_timestamp)
            if self._speaker not in (None, speaker):
                self._followed_s = word.timestamp
            self._speaker = speaker
            told = said.Said(round(word.value), word.timestamp, self._followed_s)
            said.by_application[context.app_name or ""] = told
        return context.target_num_replicas, {}


class EnginePolicy:
    """The engine deployment's: what the scheduler has said, or what there is."""

    def __init__(self) -> None:
        # Serve makes one a deployment. What was said before is of an application that had the same name.
        self._born_s = time.time()

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        word = said.by_application.get(context.app_name or "")
        if word is None or word.at_s < max(self._born_s, time.time() - STALE_S):
            return context.target_num_replicas, {}
        follows = time.time() - word.followed_s < FOLLOWER_S
        least = context.target_num_replicas if follows else 0
        return max(word.replicas, least), {}


def _timestamp(said_by: tuple[str, Any]) -> float:
    return said_by[1].timestamp
