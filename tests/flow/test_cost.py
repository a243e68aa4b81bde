"""What a ticket costs the core, in functions entered; `python -m benchmarks flow` measures seconds."""

from __future__ import annotations

import pytest

from app.flow import COMPILED
from benchmarks.flow import prepared
from tests.entered import Entered

pytestmark = pytest.mark.skipif(COMPILED, reason="only the interpreter tells what it enters")

CYCLES = 300
# Submit, dispatch, first token and close of one ticket. A little above what is counted now: a change that
# needs more says why in raising it. (The length of a step is worked out in one place: 7 calls; which prompts
# share one in another: 11; how many places the tokens leave: 3;
# bodies are kept and released in one: 2; what a newcomer needs that finds no place, too: 2; a few of many
# engines are looked at: 3. They cost nothing in machine code.)
MAX_CALLS = 194


def calls_a_cycle(queued: int) -> float:
    run = prepared(queued, tenants=100, cycles=CYCLES)
    with Entered("/app/flow/") as entered:
        run()
    return entered.calls / CYCLES


def test_a_ticket_enters_no_more_functions_than_before():
    assert calls_a_cycle(1000) <= MAX_CALLS


def test_the_depth_of_the_queue_costs_no_calls():
    assert calls_a_cycle(5000) == pytest.approx(calls_a_cycle(500), rel=0.1)
