from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.flow.estimate import DecayedRate, RunningLine, RunningMean, RunningQuantile, Window, nearest_rank


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.75, 3), (0.99, 4), (0.0, 1), (1.0, 4)])
def test_a_nearest_rank_is_one_of_the_values(share: float, value: int):
    assert nearest_rank([4, 1, 3, 2], share) == value


def test_nothing_has_no_rank():
    with pytest.raises(IndexError):
        nearest_rank([], 0.5)


def test_a_mean_forgets_its_initial_value_at_the_first_sample_unless_it_has_a_prior():
    plain, firm = RunningMean(1.0, 0.1), RunningMean(1.0, 0.1, prior=9)
    plain.add(5.0)
    firm.add(5.0)
    assert plain.value == 5.0
    assert firm.value == pytest.approx(1.4)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9])
def test_a_quantile_settles_where_that_share_lies_below(share: float):
    source = random.Random(1)
    estimate = RunningQuantile(share, 1.0)
    seen, below = 0, 0
    for index in range(20_000):
        sample = source.expovariate(1.0)
        if index >= 1000:
            seen, below = seen + 1, below + (sample <= estimate.value)
        estimate.add(sample)
    assert below / seen == pytest.approx(share, abs=0.03)


def test_a_window_knows_the_quantiles_of_its_last_samples_and_forgets_the_others():
    window = Window(1.0, length=10, prior=4)
    assert window.quantile(0.5) == 1.0
    for sample in [50.0] * 6 + [float(number) for number in range(10, 0, -1)]:
        window.add(sample)
    assert [window.quantile(share) for share in (0.0, 0.5, 0.9)] == [1.0, 6.0, 10.0]


def test_a_line_is_found_from_samples_on_it():
    line = RunningLine(0.0, 1.0, smoothing=0.05)
    for x in [10, 50, 20, 90, 40] * 20:
        line.add(x, 3.0 + 0.5 * x)
    assert line.at(60) == pytest.approx(33.0, rel=0.01)


def test_a_line_through_one_point_moves_its_intercept_only():
    line = RunningLine(0.0, 2.0, smoothing=0.05)
    for _ in range(3):
        line.add(10, 25.0)
    assert (line.slope, line.intercept) == (2.0, pytest.approx(5.0))


def test_a_rate_is_zero_before_the_first_sample_and_decays_afterwards():
    rate = DecayedRate(10.0)
    assert rate.per_s(5.0) == 0.0
    for second in range(200):
        rate.add(3.0, float(second))
    assert rate.per_s(199.0) == pytest.approx(3.0, rel=0.1)
    assert rate.per_s(299.0) < 0.01


def test_a_rate_goes_on_when_time_goes_back():
    rate = DecayedRate(10.0)
    for second in range(100):
        rate.add(3.0, 1000.0 + second)
    for second in range(100):
        rate.add(3.0, float(second))
    assert rate.per_s(99.0) < 3.5


@given(st.lists(st.floats(0.001, 1e6), min_size=1))
def test_estimates_stay_positive(samples: list[float]):
    quantile, mean = RunningQuantile(0.9, 1.0), RunningMean(1.0, 0.1)
    for sample in samples:
        quantile.add(sample)
        mean.add(sample)
    assert quantile.value > 0
    assert mean.value > 0
