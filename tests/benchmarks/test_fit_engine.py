"""What is fitted is of tokens, however many a chunk holds."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.fit_engine import OUTPUT_TOKENS, Stream, prompt
from tests.documented import REPOSITORY


def test_a_server_that_joins_tokens_looks_no_slower():
    step_s = 0.02
    each = [1.0 + number * step_s for number in range(OUTPUT_TOKENS)]
    joined = [each[0], *each[5::6], each[-1]]
    for chunks_s in (each, joined):
        one = Stream.of(0.5, chunks_s)
        assert (one.ttft_s, one.itl_s) == (0.5, pytest.approx(step_s))


def test_a_second_run_finds_nothing_of_the_first_in_the_prefix_cache():
    command = [sys.executable, "-c", "from benchmarks.fit_engine import prompt; print(prompt(8, 0))"]
    other = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True)
    ours, theirs = prompt(8, 0).split(), other.stdout.split()
    assert ours[0] != theirs[0]
    assert ours[1:] == theirs[1:]
