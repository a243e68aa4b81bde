"""What the pinned vLLM hands to its loggers, read as the decision core needs it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from vllm.v1.metrics import stats

from app.engine import vitals


def engine(blocks: int | None = 100):
    cache = SimpleNamespace(num_gpu_blocks=blocks, block_size=16)
    return vitals.Vitals(SimpleNamespace(cache_config=cache))


def step(gaps_s: list[float] = (), preempted: int = 0):
    iteration = stats.IterationStats()
    iteration.inter_token_latencies_iter = list(gaps_s)
    iteration.num_preempted_reqs = preempted
    iteration.prompt_token_stats.computed = 7
    return iteration


def test_the_newest_state_counts_and_preemptions_add_up():
    one = engine()
    busy = stats.SchedulerStats(num_running_reqs=4, num_waiting_reqs=2, kv_cache_usage=0.75)
    busy.num_skipped_waiting_reqs = 1
    one.record(stats.SchedulerStats(), step(preempted=2))
    one.record(busy, step(preempted=1), mm_cache_stats=None, engine_idx=0)
    metrics = one.metrics()
    assert (metrics.running, metrics.waiting, metrics.kv_use) == (4, 3, 0.75)
    assert (metrics.preemptions, metrics.kv_capacity_tokens) == (3, 1600)
    assert (metrics.steps, metrics.prompt_tokens) == (2, 14)


def test_the_latency_between_tokens_is_that_since_the_last_look():
    one = engine()
    one.record(stats.SchedulerStats(), step([0.01, 0.03]))
    one.record(stats.SchedulerStats(), step([0.05]))
    one.record(None, None)
    assert one.metrics().itl_s == pytest.approx(0.03)
    assert one.metrics().itl_s == 0.0


def test_an_engine_with_work_that_stands_still_has_no_known_state_and_an_idle_one_has():
    one = engine(blocks=None)
    one.record(stats.SchedulerStats(), step())
    one._recorded_s -= 2 * vitals.STALE_S
    assert one.metrics().kv_capacity_tokens == 0
    one.record(stats.SchedulerStats(num_running_reqs=1), step())
    assert one.metrics() is not None
    one._recorded_s -= 2 * vitals.STALE_S
    assert one.metrics() is None


def test_a_step_of_a_long_prompt_is_one_though_it_gives_no_token():
    one = engine()
    one.record(stats.SchedulerStats(num_running_reqs=1), None)
    one.record(stats.SchedulerStats(num_running_reqs=1), step())
    assert (one.records, one.metrics().steps) == (2, 1)


def test_whoever_asks_hears_of_each_request_that_has_finished():
    one, ended = engine(), []
    one.record(stats.SchedulerStats(), step())
    one.on_finished = ended.append
    last = step()
    last.finished_requests = [stats.FinishedRequestStats(finish_reason=None, request_id=id_) for id_ in "ab"]
    one.record(stats.SchedulerStats(), last)
    assert ended == ["a", "b"]
