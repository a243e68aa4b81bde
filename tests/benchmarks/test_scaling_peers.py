"""The peers' autoscalers behave as their own documents say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scaling_peers import ServeQueueLength, SloSaturation
from placement.simulation.scaling import View
from tests.loads import IDLE


def serve(ongoing: int, seconds: int, target: int = 2) -> list[int]:
    scaler = ServeQueueLength(8, 100)
    targets = []
    for second in range(seconds):
        view = View(replace(IDLE, in_flight=ongoing, running=target), target)
        target = scaler.target(view, float(second))
        targets.append(target)
    return targets


def test_serve_goes_up_after_thirty_seconds_in_proportion():
    targets = serve(32, 40)
    assert targets[29] == 2
    assert targets[-1] == 4


def test_serve_goes_down_after_ten_minutes():
    targets = serve(8, 610, target=3)
    assert targets[599] == 3
    assert targets[-1] == 1


def llm_d(shares: float, seconds: int, target: int, running: int | None = None) -> list[int]:
    scaler = SloSaturation(100)
    targets = []
    for second in range(seconds):
        view = View(replace(IDLE, running=running or target), target, ((shares, shares),) * 5)
        target = scaler.target(view, float(second))
        targets.append(target)
    return targets


def test_llm_d_holds_between_its_thresholds():
    assert set(llm_d(0.5, 600, 4)) == {4}


def test_llm_d_goes_up_by_what_is_missing():
    # 4 + ceil(4 x (0.8 / 0.55 - 1)), once the number that was found is older than its 30 s.
    targets = llm_d(0.8, 46, 4)
    assert (targets[44], targets[45]) == (4, 6)


def test_llm_d_counts_what_is_starting():
    # A saturation of 0.8 on two of four: 0.4 once the others are there.
    assert set(llm_d(0.8, 120, 4, running=2)) == {4}


def test_llm_d_gives_up_one_each_two_minutes():
    # From the first look that is more than 180 s after it was found with six.
    targets = llm_d(0.1, 600, 6)
    assert [targets[second] for second in (194, 195, 314, 315, 434, 435)] == [6, 5, 5, 4, 4, 3]


@pytest.mark.parametrize("target", [1, 100])
def test_bounds_hold(target):
    assert llm_d(0.1 if target == 1 else 2.0, 60, target)[-1] == target
