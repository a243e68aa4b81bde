"""What was not measured is not shown as a figure."""

from __future__ import annotations

from benchmarks.simulation import join, measure, table
from placement.simulation.workload import poisson

REQUESTS = poisson(400, 1.0, seed=0)


def test_peers_that_predict_and_promise_nothing_have_no_figure_for_it():
    figures = measure(REQUESTS, ["flow", "round-robin"], seeds=1, load=2.0)
    assert figures["flow"]["TTFT within 25 %"] is not None
    assert figures["round-robin"]["TTFT within 25 %"] is None
    # Nobody returns, so nobody was promised a place.
    assert figures["flow"]["promises kept"] is None
    ours, peer = table(figures).splitlines()[-2:]
    assert (ours.count("| - |"), peer.endswith("| - | - | - |")) == (1, True)


def test_seeds_that_have_a_figure_are_joined():
    assert join("goodput", [0.5, None, 0.25]) == 0.375
    assert join("min Jain", [0.5, None, 0.25]) == 0.25
    assert join("batch max wait s", [1.0, 3.0]) == 3.0
    assert join("goodput", [None, None]) is None
