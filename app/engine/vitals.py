"""What an engine says of its own state, from the statistics that vLLM hands to its loggers.

`SchedulerStats` and `IterationStats` are not a stable interface of vLLM: this is the only file that reads
them, and tests/engine/test_vitals.py holds them against the pinned version.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase

from app.flow.ticket import EngineMetrics

# An engine with work that has not finished a step for so long has no known state.
STALE_S = 3.0


def _nobody(_request_id: str) -> None:
    """Wants to know."""


class Vitals(StatLoggerBase):
    """Keeps the newest figures; one an engine."""

    def __init__(self, vllm_config: VllmConfig) -> None:
        self._config = vllm_config
        self._running = self._waiting = self._preemptions = self._steps = self._prompt_tokens = 0
        self._records = 0
        self._kv_use = 0.0
        self._gaps_s = 0.0
        self._gaps = 0
        self._recorded_s = time.monotonic()
        # Hears of each request's end, by the id that vLLM was given.
        self.on_finished: Callable[[str], None] = _nobody

    def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
        """vLLM calls it after every step."""
        self._recorded_s = time.monotonic()
        self._records += 1
        if scheduler_stats is not None:
            self._running = scheduler_stats.num_running_reqs
            self._waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self._kv_use = scheduler_stats.kv_cache_usage
        if iteration_stats is not None:
            self._steps += 1
            self._prompt_tokens += iteration_stats.prompt_token_stats.computed
            self._preemptions += iteration_stats.num_preempted_reqs
            self._gaps_s += sum(iteration_stats.inter_token_latencies_iter)
            self._gaps += len(iteration_stats.inter_token_latencies_iter)
            for finished in iteration_stats.finished_requests:
                self.on_finished(finished.request_id)

    @property
    def records(self) -> int:
        """Since the engine started: one a step, also of one that computes a part of a prompt and gives no
        token, for which vLLM has no figures."""
        return self._records

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def metrics(self) -> EngineMetrics | None:
        """The state now, the inter-token latency since the last call; None when it is not known."""
        if self._running and time.monotonic() - self._recorded_s > STALE_S:
            return None
        itl_s = self._gaps_s / self._gaps if self._gaps else 0.0
        self._gaps_s, self._gaps = 0.0, 0
        cache = self._config.cache_config
        return EngineMetrics(
            running=self._running,
            waiting=self._waiting,
            kv_use=self._kv_use,
            preemptions=self._preemptions,
            itl_s=itl_s,
            kv_capacity_tokens=(cache.num_gpu_blocks or 0) * cache.block_size,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
        )
