"""What is fitted is of tokens, however many a chunk holds."""

from __future__ import annotations

import pytest

from benchmarks.fit_engine import OUTPUT_TOKENS, Stream


def test_a_server_that_joins_tokens_looks_no_slower():
    step_s = 0.02
    each = [1.0 + number * step_s for number in range(OUTPUT_TOKENS)]
    joined = [each[0], *each[5::6], each[-1]]
    for chunks_s in (each, joined):
        one = Stream.of(0.5, chunks_s)
        assert (one.ttft_s, one.itl_s) == (0.5, pytest.approx(step_s))
