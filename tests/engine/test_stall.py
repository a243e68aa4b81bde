"""Busy is not stopped: steps tell the two apart, however slow they are."""

from __future__ import annotations

from app.engine.stall import StallWatch


def test_an_engine_that_makes_steps_is_busy_however_slow_it_is():
    watch = StallWatch(10.0)
    assert not any(watch.stalled(True, second // 9, float(second)) for second in range(200))


def test_an_engine_with_work_and_without_steps_has_stopped():
    watch = StallWatch(10.0)
    verdicts = [watch.stalled(True, 5, float(second)) for second in range(13)]
    assert verdicts == [False] * 11 + [True] * 2


def test_an_idle_engine_makes_no_steps_and_has_not_stopped():
    watch = StallWatch(10.0)
    assert not any(watch.stalled(False, 5, float(second)) for second in range(100))
    # Its first request has as long as any.
    assert not watch.stalled(True, 5, 109.0)
    assert watch.stalled(True, 5, 109.5)


def test_an_engine_that_goes_on_has_not_stopped_any_more():
    watch = StallWatch(10.0)
    watch.stalled(True, 5, 0.0)
    assert watch.stalled(True, 5, 11.0)
    assert not watch.stalled(True, 6, 12.0)
