"""The pictures of the documentation are those that the simulator draws now."""

from __future__ import annotations

import pytest

from benchmarks.pictures import FOLDER, LOADS, OURS, pictures, results
from tests.documented import REPOSITORY


@pytest.fixture(scope="module")
def found():
    return results()


def test_the_pictures_are_current(found):
    for name, picture in pictures(found).items():
        assert (REPOSITORY / FOLDER / name).read_text() == picture, "run: python -m benchmarks pictures"


def test_they_show_that_ours_keeps_most_at_twice_the_capacity_and_urgent_promises_at_any_load(found):
    above = [load for load in LOADS if load >= 2.0]
    for policy in found.keys() - {OURS}:
        assert all(
            found[OURS][load]["goodput_share"] > found[policy][load]["goodput_share"] for load in above
        )
    # At three times the capacity the interactive requests alone fill the engines.
    assert all(found[OURS][load]["classes"]["interactive"]["attainment"] > 0.9 for load in LOADS)
