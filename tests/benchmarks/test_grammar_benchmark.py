"""A compiler that dies is told from one that takes long."""

from __future__ import annotations

import os
from typing import Any

import pytest

from benchmarks import grammars
from benchmarks.grammars import FAILED, table, taken


def dies_at_once(kind: str, text: str, done: Any) -> None:
    os._exit(1)


def dies_of_it(kind: str, text: str, done: Any) -> None:
    done.send("ready")
    os._exit(1)


def compiles(kind: str, text: str, done: Any) -> None:
    done.send("ready")
    done.send(0.25)


@pytest.mark.parametrize(
    ("compile_", "told"), [(dies_at_once, FAILED), (dies_of_it, FAILED), (compiles, 0.25)]
)
@pytest.mark.timeout(60)
def test_a_death_is_no_long_time(compile_: Any, told: object):
    assert taken(compile_, "schema", "{}") == told


def test_each_has_its_words():
    lines = table({"a": 0.25, "b": None, "c": FAILED}).splitlines()
    assert lines[2:] == ["| a | 0.25 |", f"| b | more than {grammars.LONGEST_S:.0f} |", "| c | failed |"]
