"""A figure over time."""

from __future__ import annotations

import pytest

from app.flow.recent import SlidingQuantile, Trend


class TestSlidingQuantile:
    def test_of_few_nothing_is_said(self):
        samples = SlidingQuantile(10.0, 0.9, least=2)
        assert SlidingQuantile(10.0, 0.9).value(0.0) is None
        samples.add(1.0, 0.0)
        assert samples.value(0.0) is None
        samples.add(1.0, 0.0)
        assert samples.value(0.0) == 1.0

    def test_most_of_the_time_it_was_below(self):
        samples = SlidingQuantile(100.0, 0.9)
        for second in range(100):
            samples.add(float(second), float(second))
        assert samples.value(99.0) == 89.0

    def test_a_short_burst_leaves_no_trace(self):
        samples = SlidingQuantile(100.0, 0.9)
        for second in range(100):
            samples.add(50.0 if second < 9 else 1.0, float(second))
        assert samples.value(99.0) == 1.0

    def test_what_is_older_is_forgotten(self):
        samples = SlidingQuantile(10.0, 1.0)
        samples.add(9.0, 0.0)
        samples.add(1.0, 10.0)
        assert samples.value(10.0) == 9.0
        assert samples.value(10.5) == 1.0
        assert samples.value(20.5) is None
        # Asking has changed nothing.
        assert samples.value(10.0) == 9.0
        samples.add(1.0, 10.5)
        assert samples.value(10.0) == 1.0

    def test_a_part_of_the_window_can_be_asked_for(self):
        samples = SlidingQuantile(10.0, 1.0)
        samples.add(9.0, 0.0)
        samples.add(1.0, 6.0)
        assert samples.value(10.0, within_s=5.0) == 1.0
        assert samples.value(10.0, within_s=50.0) == samples.value(10.0) == 9.0

    def test_its_memory_is_bounded(self):
        samples = SlidingQuantile(1e9, 0.0, most=10)
        for number in range(20):
            samples.add(float(number), 0.0)
        assert samples.value(0.0) == 10.0


class TestTrend:
    def test_a_level_stays_where_it_is(self):
        trend = Trend(60.0)
        for second in range(600):
            trend.add(3.0, float(second))
        assert trend.ahead(120.0) == pytest.approx(3.0)

    def test_a_straight_rise_goes_on(self):
        trend = Trend(60.0)
        for second in range(1200):
            trend.add(0.01 * second, float(second))
        assert trend.ahead(120.0) == pytest.approx(12.0 + 1.2, abs=0.05)

    def test_a_fall_leads_nowhere(self):
        trend = Trend(60.0)
        for second in range(300):
            trend.add(300.0 - second, float(second))
        assert trend.ahead(120.0) == pytest.approx(trend.ahead(0.0))

    def test_a_clock_that_goes_back_stands(self):
        trend = Trend(60.0)
        trend.add(1.0, 10.0)
        trend.add(9.0, 5.0)
        assert trend.ahead(0.0) == 1.0
