from __future__ import annotations

import pytest

from app.status.numbers import count, percent, seconds, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (0.0004, "0 s"),
        (0.035, "35 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (4.24, "4.2 s"),
        (9.96, "10 s"),
        (119.4, "119 s"),
        (200.0, "3 min 20 s"),
        (300.0, "5 min"),
        (3600.0, "1 h"),
        (7500.0, "2 h 5 min"),
    ],
)
def test_seconds_are_read_in_the_unit_that_fits(value, text):
    assert seconds(value).replace("\u202f", " ") == text


def test_only_what_is_whole_is_a_hundred_percent():
    assert percent(1.0, 1) == "100.0\u202f%"
    assert percent(0.99999, 1) == "99.9\u202f%"
    assert percent(0.29) == "29\u202f%"
    assert percent(None) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (512, "512 B"), (1536, "1.5 KiB"), (700 * 2**20, "700 MiB"), (3.4 * 2**40, "3.4 TiB")],
)
def test_sizes_are_binary(value, text):
    assert size(value).replace("\u202f", " ") == text


def test_counts_are_grouped():
    assert count(1_234_567) == "1,234,567"
