"""How many requests, and how many of their tokens, one engine gets: follows the engine's own state.

Shrinks on what the engine suffers from (it preempted, its cache is nearly full, tokens come slowly, its
own queue is longer than the burst) and grows by one when it is nearly full and nothing of this shows. It is
never fed end-to-end latency, which grows with the output's length and says nothing of the engine.
"""

from __future__ import annotations

import math

from app.flow.config import LimitPolicy
from app.flow.estimate import RunningMean
from app.flow.ticket import EngineMetrics

# Nearly full: the limit was the reason for waiting.
NEARLY_FULL = 0.9
# A prompt of unknown length; only the burst depends on it.
TYPICAL_PROMPT_TOKENS = 512.0


class AdaptiveLimit:
    """Additive increase, multiplicative decrease between a floor and the start.

    Never above the start, the engine's own limit: what would wait inside cannot be ordered or predicted.
    """

    __slots__ = (
        "_batched_tokens",
        "_changed_s",
        "_limit",
        "_metrics_s",
        "_policy",
        "_preemptions",
        "_prompt",
        "_start",
        "_tokens",
        "requests",
        "tokens",
    )

    def __init__(self, policy: LimitPolicy, start: int, batched_tokens: int) -> None:
        self._policy = policy
        self._batched_tokens = batched_tokens
        self._start = start
        self._limit = float(start)
        self._tokens = 0
        self._prompt = RunningMean(TYPICAL_PROMPT_TOKENS, 0.02)
        self._changed_s = -math.inf
        self._metrics_s: float | None = None
        self._preemptions: int | None = None
        # What may be in flight. `tokens` is 0 until the engine has told its cache's size: no limit.
        self.requests = start
        self.tokens = 0

    @property
    def burst(self) -> int:
        """Requests that may wait in the engine for its next step, one step's worth of prompts."""
        step = math.ceil(self._batched_tokens / max(1.0, self._prompt.value))
        return max(1, min(step, math.ceil(self._policy.burst_share * self._start)))

    def granted(self, prompt_tokens: int) -> None:
        self._prompt.add(prompt_tokens)

    def set_back(self, span_s: float) -> None:
        """The clock was set, by less than nothing."""
        self._changed_s += span_s
        if self._metrics_s is not None:
            self._metrics_s += span_s

    def observe(
        self, metrics: EngineMetrics | None, in_flight: int, reserved_tokens: int, now_s: float
    ) -> None:
        """One report; None when the engine could not be asked. `in_flight` and `reserved_tokens`: what it
        was given."""
        if not self._policy.enabled:
            return
        if metrics is None:
            self._decay(now_s)
            return
        self._metrics_s = now_s
        self._tokens = metrics.kv_capacity_tokens
        suffers = self._suffers(metrics)
        self._preemptions = metrics.preemptions
        if suffers:
            self._shrink(now_s)
        elif self._nearly_full(in_flight, reserved_tokens) and metrics.waiting == 0:
            self._set(self._limit + 1)
        else:
            self._set(self._limit)

    def _nearly_full(self, in_flight: int, reserved_tokens: int) -> bool:
        """By requests, or by tokens: with one more like the others."""
        if in_flight >= min(self.requests, NEARLY_FULL * self._limit):
            return True
        return 0 < NEARLY_FULL * self.tokens * in_flight <= reserved_tokens * (in_flight + 1)

    def _suffers(self, metrics: EngineMetrics) -> bool:
        known = self._preemptions is not None
        return (
            (known and metrics.preemptions > (self._preemptions or 0))
            or metrics.kv_use > self._policy.kv_high
            or metrics.itl_s > self._policy.itl_budget_s
            or metrics.waiting > self.burst
        )

    def _shrink(self, now_s: float) -> None:
        if now_s - self._changed_s >= self._policy.window_s:
            self._changed_s = now_s
            self._set(self._limit * self._policy.shrink)

    def _decay(self, now_s: float) -> None:
        """Without news: hold, then fall to the floor step by step. An engine that never told stays as set."""
        if self._metrics_s is not None and now_s - self._metrics_s > self._policy.stale_s:
            self._shrink(now_s)

    def _set(self, limit: float) -> None:
        floor = max(1.0, self._policy.floor_share * self._start)
        self._limit = min(max(limit, floor), self._start)
        self.requests = int(self._limit)
        self.tokens = int(self._tokens * self._policy.kv_reserve * min(1.0, self._limit / self._start))
