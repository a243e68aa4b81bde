"""How steady a machine is said to be."""

from __future__ import annotations

import argparse
import os

import pytest

from benchmarks.machine import figures, run, table


def times(slowness: list[float]) -> list[tuple[float, float]]:
    """Ten pieces of work in each tenth of a second."""
    return [
        (0.1 * second + 0.01 * piece, 0.003 * slow)
        for second, slow in enumerate(slowness)
        for piece in range(10)
    ]


def test_a_steady_machine_differs_by_nothing():
    assert figures(times([1.0] * 50)) == {
        "mean": 1.0,
        "deviation": 0.0,
        "correlation after 0.1 s": 0.0,
        "correlation after 0.5 s": 0.0,
        "correlation after 1 s": 0.0,
    }


def test_a_second_of_slowness_in_two_shows_in_all_figures():
    seen = figures(times(([1.0] * 10 + [1.5] * 10) * 20))
    assert seen["mean"] == pytest.approx(1.25)
    assert seen["deviation"] == pytest.approx(0.25)
    assert seen["correlation after 0.1 s"] == pytest.approx(0.8, abs=0.05)
    assert seen["correlation after 0.5 s"] == pytest.approx(0.0, abs=0.1)
    assert seen["correlation after 1 s"] == pytest.approx(-1.0, abs=0.05)


def test_each_processor_is_measured():
    seen = run(argparse.Namespace(seconds=0.5))
    assert list(seen) == [f"processor {number}" for number in sorted(os.sched_getaffinity(0))]
    assert table(seen).count("\n") == 1 + len(seen)
