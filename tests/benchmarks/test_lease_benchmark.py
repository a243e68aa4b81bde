"""From waits to figures, and what is computed of them."""

from __future__ import annotations

import math
import threading
from dataclasses import asdict, replace

import psutil
import pytest

from benchmarks.lease_parts import Asked
from benchmarks.leases import Run, capacity, left_out, measured, middle, table, with_more
from benchmarks.processes import ThreadsCpu, spent_in, threads_cpu

RUN = Run("scheduler", 1, 8, 1000.0, 3.0, 9.0, 900.0, 500.0, 800.0)

MEASURED = {"engines": 8, "rounds": 3, "seconds": 4.0, "requests_per_s": 8.0, "gpus": 4}


def test_figures_are_of_all_gateways_together():
    asked = [Asked([0.001] * 99, cpu_s=0.05), Asked([0.001] * 98 + [0.005] * 3, cpu_s=0.03)]
    one = measured("scheduler", 16, 2.0, asked, cpu_s=0.1, busiest_s=0.08)
    assert (one.gateways, one.streams, one.leases_per_s) == (2, 16, 100.0)
    assert (one.p50_ms, one.p99_ms) == (1.0, 5.0)
    assert (one.scheduler_us, one.busiest_thread_us, one.gateways_us) == pytest.approx((500, 400, 400))


def test_cpu_is_of_the_window_however_far_apart_it_was_read():
    before = ThreadsCpu(10.0, {1: 5.0, 2: 1.0})
    after = ThreadsCpu(12.5, {1: 7.5, 2: 1.0, 3: 0.5})
    assert spent_in(2.0, before, after) == pytest.approx([2.0, 0.0, 0.4])


def test_every_thread_of_a_process_is_read():
    read = threads_cpu([psutil.Process()])
    assert threading.get_native_id() in read.spent_s
    assert all(spent_s >= 0 for spent_s in read.spent_s.values())


def test_the_middle_is_taken_figure_by_figure():
    rounds = [RUN, replace(RUN, p99_ms=7.0, leases_per_s=1.0), replace(RUN, p99_ms=8.0)]
    assert middle(rounds) == replace(RUN, p99_ms=8.0)


def test_a_scheduler_stops_before_its_thread_is_full():
    """M/M/1: the time in the system is exponential with the difference of the rates."""
    computed = capacity(RUN, requests_per_s=8, gpus=4)
    assert computed.leases_per_s == pytest.approx(2000 - math.log(100) / 0.02)
    assert math.exp(-(2000 - computed.leases_per_s) * 0.02) == pytest.approx(0.01)
    assert (computed.replicas, computed.gpus) == (221, 884)
    assert computed.asking_gateways == pytest.approx(computed.leases_per_s * 800e-6)


def test_a_thread_that_is_too_slow_for_the_bar_serves_nobody():
    assert capacity(replace(RUN, busiest_thread_us=1e5), 8, 8).leases_per_s == 0


def test_more_gateways_are_computed_along_a_line():
    ten = replace(RUN, gateways=10, busiest_thread_us=590.0)
    runs = [replace(RUN, streams=4, busiest_thread_us=9e9), replace(RUN, target="socket"), RUN, ten]
    one, other, computed = with_more("scheduler", runs, [100])
    assert [one, other] == [RUN, ten]
    assert (computed.gateways, computed.busiest_thread_us) == (100, pytest.approx(1490))
    assert math.isnan(computed.leases_per_s)


def test_of_one_number_of_gateways_nothing_more_is_computed():
    assert with_more("scheduler", [RUN], [100]) == [RUN]
    assert with_more("scheduler", [], [100]) == []


def test_what_can_not_be_measured_is_told_or_refused():
    assert left_out([1, 10, 30], [8, 32]) == [(10, 8), (30, 8)]
    assert left_out([1, 10], [32]) == []
    with pytest.raises(ValueError, match="gateways: 30"):
        left_out([1, 30], [8, 16])
    with pytest.raises(ValueError, match="streams: 8"):
        left_out([10], [8, 16])


def test_the_table_has_what_was_measured_and_what_is_computed():
    figures = {"runs": [asdict(RUN)], "computed": [asdict(capacity(RUN, 8, 4))], "rest": {"300": 0.052}}
    text = table(figures | MEASURED)
    assert "| scheduler | 1 | 8 | 1,000 | 3.0 | 9.0 | 900 | 500 | 800 |" in text
    assert "| scheduler | 1 | 500 | 1,770 | 221 | 884 | 1.4 |" in text
    assert text.endswith("by engines that report: 5.2% with 300.")
    assert "At rest" not in table({**figures, "rest": {}} | MEASURED)
