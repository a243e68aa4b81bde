"""The autoscalers of other systems, behind one method: the figures of a second in, a number of replicas out.

ServeQueueLength  Ray Serve's `replica_queue_length_autoscaling_policy`, the function itself, in a context as
                  Serve's controller makes it, with Serve's own delays (`_apply_delay_logic`), which take the
                  time as an argument; mean of the last 30 s, up after 30 s, down after 600 s (its defaults).
SloSaturation     llm-d's SLO-aware control law as published (guides/workload-autoscaling, README.slo-aware):
                  P90 of a minute over the SLO each 15 s, clamped at 2, averaged over 45 s; up above 0.55 with
                  credit for what is starting, down below 0.40; behind a HorizontalPodAutoscaler that doubles
                  at most each minute after 30 s, and takes one each 120 s after 180 s; its first
                  recommendation is what it finds (`recordInitialRecommendation` of Kubernetes).
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import (
    _apply_delay_logic,
    _apply_scaling_factors,
    replica_queue_length_autoscaling_policy,
)
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from app.flow.estimate import nearest_rank
from placement.simulation.scaling import View

LOOK_BACK_S = 30.0


class ServeQueueLength:
    """Ray Serve's default."""

    def __init__(self, target_ongoing_requests: float, max_replicas: int, **changes: Any) -> None:
        self._config = AutoscalingConfig(
            min_replicas=1,
            max_replicas=max_replicas,
            target_ongoing_requests=target_ongoing_requests,
            look_back_period_s=LOOK_BACK_S,
            **changes,
        )
        self._ongoing: deque[tuple[float, float]] = deque()
        self._state: dict[str, Any] = {}

    def target(self, view: View, now_s: float) -> int:
        self._ongoing.append((now_s, float(view.load.in_flight + view.load.queued)))
        mean = _mean(self._ongoing, now_s - LOOK_BACK_S)
        desired, _ = replica_queue_length_autoscaling_policy(self._context(view, mean, now_s))
        scaled = _apply_scaling_factors(desired, view.load.running, self._config)
        decided, self._state = _apply_delay_logic(scaled, view.target, self._config, self._state, _now=now_s)
        target: int = min(max(decided, self._config.min_replicas), self._config.max_replicas)
        return target

    def _context(self, view: View, ongoing: float, now_s: float) -> AutoscalingContext:
        return AutoscalingContext(
            deployment_id=DeploymentID(name="Engine", app_name="llm"),
            deployment_name="Engine",
            app_name="llm",
            current_num_replicas=view.load.running,
            target_num_replicas=view.target,
            running_replicas=[],
            total_num_requests=ongoing,
            total_queued_requests=float(view.load.queued),
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=self._config.min_replicas,
            capacity_adjusted_max_replicas=self._config.max_replicas,
            policy_state=self._state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=now_s,
            config=self._config,
        )


class SloSaturation:
    """llm-d's law and the HorizontalPodAutoscaler behind it."""

    CLAMP = 2.0
    WINDOW_S, SMOOTHING_S, RULE_S = 60.0, 45.0, 15.0
    UP_WINDOW_S, UP_PERIOD_S, UP_PODS = 30.0, 60.0, 4
    DOWN_WINDOW_S, DOWN_PERIOD_S = 180.0, 120.0

    def __init__(self, max_replicas: int, up: float = 0.55, down: float = 0.40) -> None:
        self._max_replicas, self._up, self._down = max_replicas, up, down
        self._ttft: deque[tuple[float, float]] = deque()
        self._tpot: deque[tuple[float, float]] = deque()
        self._samples: deque[tuple[float, float]] = deque()
        self._asked: deque[tuple[float, int]] = deque()
        self._added: deque[tuple[float, int]] = deque()
        self._down_s = -math.inf
        self._rule_s = -math.inf

    def target(self, view: View, now_s: float) -> int:
        self._ttft += [(now_s, ttft) for ttft, _ in view.answers] + [(now_s, wait) for wait in view.refused]
        self._tpot += [(now_s, tpot) for _, tpot in view.answers if tpot is not None]
        if now_s - self._rule_s < self.RULE_S:
            return view.target
        self._rule_s = now_s
        saturation = max(_p90(self._ttft, now_s - self.WINDOW_S), _p90(self._tpot, now_s - self.WINDOW_S))
        self._samples.append((now_s, min(saturation, self.CLAMP)))
        smooth = _mean(self._samples, now_s - self.SMOOTHING_S)
        asked = self._law(smooth, view.target, view.load.running)
        return self._behaviour(min(max(asked, 1), self._max_replicas), view.target, now_s)

    def _law(self, smooth: float, provisioned: int, ready: int) -> int:
        if smooth > self._up:
            credit = ready / provisioned if 0 < ready < provisioned else 1.0
            # A credit that outweighs the signal is no reason to take one away.
            return provisioned + max(0, math.ceil(provisioned * (smooth * credit / self._up - 1.0)))
        if smooth < self._down:
            return provisioned - math.floor(provisioned * (1.0 - smooth / self._down))
        return provisioned

    def _behaviour(self, asked: int, current: int, now_s: float) -> int:
        """Least of the last 30 s on the way up, most of the last 180 s on the way down; then the rates."""
        if not self._asked:
            self._asked.append((now_s, current))
        self._asked.append((now_s, asked))
        _forget(self._asked, now_s - self.DOWN_WINDOW_S)
        least = min(value for at_s, value in self._asked if now_s - at_s <= self.UP_WINDOW_S)
        most = max(value for _, value in self._asked)
        if least > current:
            _forget(self._added, now_s - self.UP_PERIOD_S)
            before = current - sum(count for _, count in self._added)
            allowed = before + max(before, self.UP_PODS)
            wanted = max(current, min(least, allowed))
            self._added.append((now_s, wanted - current))
            return wanted
        if most < current and now_s - self._down_s >= self.DOWN_PERIOD_S:
            self._down_s = now_s
            return current - 1
        return current


def _forget(samples: deque[Any], before_s: float) -> None:
    while samples and samples[0][0] < before_s:
        samples.popleft()


def _mean(samples: deque[tuple[float, float]], since_s: float) -> float:
    """The newest is of now."""
    _forget(samples, since_s)
    return sum(value for _, value in samples) / len(samples)


def _p90(samples: deque[tuple[float, float]], since_s: float) -> float:
    """Zero of nothing, as the published recording rule has it."""
    _forget(samples, since_s)
    return nearest_rank((value for _, value in samples), 0.9) if samples else 0.0
