"""Who is there and who has gone, by the signs of life and nothing else."""

from __future__ import annotations

from app.serving.attendance import ATTEND_INTERVAL_S, Attendance

ABSENT_AFTER_S = 3.5


def test_a_gateway_that_says_that_it_lives_is_there():
    attendance = Attendance(ABSENT_AFTER_S)
    for second in range(20):
        attendance.seen("g", second * ATTEND_INTERVAL_S)
        assert attendance.leave(second * ATTEND_INTERVAL_S + 0.9) == frozenset()


def test_a_silent_gateway_leaves_once():
    attendance = Attendance(ABSENT_AFTER_S)
    attendance.seen("g", 0.0)
    attendance.seen("h", 2.0)
    assert attendance.leave(ABSENT_AFTER_S) == frozenset()
    assert attendance.leave(ABSENT_AFTER_S + 0.1) == {"g"}
    assert attendance.leave(ABSENT_AFTER_S + 0.2) == frozenset()


def test_who_comes_back_is_there_again():
    attendance = Attendance(ABSENT_AFTER_S)
    attendance.seen("g", 0.0)
    attendance.leave(10.0)
    attendance.seen("g", 11.0)
    assert attendance.leave(12.0) == frozenset()
    assert attendance.leave(20.0) == {"g"}


def test_a_caller_without_a_name_never_leaves():
    attendance = Attendance(ABSENT_AFTER_S)
    attendance.seen("", 0.0)
    assert attendance.leave(100.0) == frozenset()
