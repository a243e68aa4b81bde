"""The policy that Serve's controller calls; how many it asks for is tested in tests/flow."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from app.serving.autoscaling import QueueDepthPolicy


@dataclass(frozen=True)
class Context:
    """What the policy reads of Serve's `AutoscalingContext`."""

    target_num_replicas: int
    aggregated_metrics: dict[str, dict[str, float]] | None


def desired(metrics: dict[str, dict[str, float]] | None, replicas: int = 2) -> int:
    count, state = QueueDepthPolicy(target_queue_depth=8.0)(Context(replicas, metrics))
    assert state == {}
    return count


def test_the_queue_is_counted_once_though_every_replica_passes_it_on():
    assert desired({"queue_depth": {"r1": 16.0, "r2": 16.0}}) == 2
    assert desired({"queue_depth": {"r1": 24.0, "r2": 24.0}}) == 3


def test_the_largest_figure_is_the_newest_word_of_a_burst():
    assert desired({"queue_depth": {"r1": 0.0, "r2": 80.0}}) == 10


def test_an_empty_queue_gives_one_replica_up():
    assert desired({"queue_depth": {"r1": 0.0, "r2": 0.0}}) == 1


@pytest.mark.parametrize("metrics", [None, {}, {"queue_depth": {}}, {"another": {"r1": 99.0}}])
def test_without_figures_nothing_changes(metrics):
    assert desired(metrics, replicas=3) == 3
