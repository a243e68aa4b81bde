"""A figure over time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.flow.estimate import nearest_rank
from app.flow.recent import Rises, SlidingQuantile, Trend


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
        samples.add(2.0, 20.5)
        assert samples.value(20.5) == 2.0

    def test_of_samples_within_a_grain_the_first_counts(self):
        samples = SlidingQuantile(10.0, 1.0, grain_s=2.0)
        for second, sample in enumerate((1.0, 9.0, 3.0)):
            samples.add(sample, float(second))
        assert samples.value(2.0) == 3.0

    @given(st.lists(st.tuples(st.floats(0.0, 5.0), st.sampled_from([1.0, 2.0, 3.0])), min_size=1))
    def test_it_is_the_quantile_of_what_lies_in_the_window(self, steps):
        samples, now_s, seen = SlidingQuantile(10.0, 0.7), 0.0, []
        for passed_s, sample in steps:
            now_s += passed_s
            samples.add(sample, now_s)
            seen.append((now_s, sample))
            within = [one for at_s, one in seen if now_s - at_s <= 10.0]
            assert samples.value(now_s) == nearest_rank(within, 0.7)

    def test_a_clock_that_is_set_back_begins_anew(self):
        samples = SlidingQuantile(60.0, 0.9, least=2)
        for second in range(100):
            samples.add(3.0, 5000.0 + second)
        assert samples.value(5099.0) == 3.0
        for second in range(2):
            samples.add(1.0, 1000.0 + second)
        assert samples.value(1001.0) == 1.0
        assert samples.value(500.0) is None

    def test_its_memory_is_bounded(self):
        samples = SlidingQuantile(1e9, 0.0, most=10)
        for number in range(20):
            samples.add(float(number), 0.0)
        assert samples.value(0.0) == 10.0


class TestRises:
    @staticmethod
    def seen(*samples: float, seconds: float = 10.0) -> Rises:
        rises = Rises(100.0)
        for number, sample in enumerate(samples):
            rises.add(sample, 4.0, number * seconds)
        return rises

    def test_each_time_it_comes_back_counts_once(self):
        assert self.seen(0.5, 4.0, 4.0, 0.5, 4.0, 3.0, 0.5).count == 2

    def test_where_it_comes_from_must_be_known(self):
        assert self.seen(4.0, 4.0).count == 0
        assert self.seen(4.0, 0.5, 4.0).count == 1

    def test_a_fall_to_more_than_a_quarter_is_none(self):
        assert self.seen(0.5, 4.0, 1.0, 4.0, 1.0, 4.0).count == 1

    def test_what_is_older_is_forgotten(self):
        assert self.seen(0.5, 4.0, 0.5, seconds=100.0).count == 1
        assert self.seen(0.5, 4.0, 0.5, seconds=100.5).count == 0


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
