"""Phases of a start."""

from __future__ import annotations

from app.engine.phases import Phases


def test_each_phase_lasts_from_the_end_of_the_one_before():
    times = iter([10.0, 15.1, 28.2])
    phases = Phases(lambda: next(times))
    phases.end("import")
    phases.end("core")
    assert str(phases) == "18.2 s (import 5.1, core 13.1)"


def test_before_the_first_end_nothing_has_passed():
    assert str(Phases(lambda: 3.0)) == "0.0 s ()"
