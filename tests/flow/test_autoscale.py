"""Engines asked for by a queue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.flow.autoscale import desired_replicas


@pytest.mark.parametrize(
    ("queued", "replicas", "desired"),
    [
        (None, 3, 3),  # nobody knows: hold
        (16.0, 2, 2),  # tolerated: 8 a replica
        (17.0, 2, 3),
        (80.0, 2, 10),
        (1.0, 2, 2),  # still waiting: no time to shrink
        (0.0, 2, 1),
    ],
)
def test_a_queue_asks_for_replicas_in_proportion_and_gives_them_up_one_at_a_time(queued, replicas, desired):
    assert desired_replicas(queued, replicas, target_queue_depth=8.0) == desired


@given(queued=st.integers(0, 10_000), replicas=st.integers(1, 100), target=st.floats(0.5, 100))
def test_what_is_asked_for_brings_the_queue_within_the_target(queued, replicas, target):
    desired = desired_replicas(float(queued), replicas, target)
    assert queued == 0 or desired >= replicas
    assert queued <= max(desired, replicas) * target * (1 + 1e-9)
