"""Bursts of long prompts beside a stream of short ones: whose first tokens wait for whose prompts.

The decision core over a modelled engine that is idle for most of the time: no clock but the simulation's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.flow.config import FlowConfig, Limits, RoutePolicy
from app.flow.controller import FlowController
from placement.simulation.ablations import NO_PREFILL_SHARE
from placement.simulation.engine import ENGINES
from placement.simulation.simulator import Record, Setup, Simulator
from placement.simulation.summary import percentile
from placement.simulation.workload import Request

SHAPE = ENGINES["gpu-like"]
SECONDS, SHORT_PER_S, BURST_EVERY_S = 120, 4.0, 10
BUDGET_S = 2.0


def requests(burst: int, tokens: int, class_name: str) -> list[Request]:
    source = random.Random(3)
    arrived_s, found = 0.0, []
    while arrived_s < SECONDS:
        arrived_s += source.expovariate(SHORT_PER_S)
        prompt, output = source.randint(100, 600), source.randint(50, 150)
        found.append(Request(f"short{len(found)}", arrived_s, prompt, output, "a", "interactive", (), ""))
    for start_s in range(5, SECONDS, BURST_EVERY_S):
        for number in range(burst):
            arrived_s = start_s + 0.02 * number
            name = f"long{start_s}.{number}"
            found.append(Request(name, arrived_s, tokens, 100, "b", class_name, (), ""))
    return sorted(found, key=lambda one: one.arrived_s)


def served(
    burst: int, tokens: int, class_name: str, share: int | None = None, **route: float
) -> tuple[list[Record], list[Record]]:
    shape = replace(SHAPE, prompt_step_tokens=share)
    limits = Limits(1000, 60.0, shape.max_num_seqs, 1e9, 1e9, prompt_step_tokens=share)
    policy = FlowController(limits, FlowConfig(route=RoutePolicy(**route)), random.Random(1).random)
    records = Simulator(policy, Setup(shape, 1)).run(requests(burst, tokens, class_name))
    short = [one for one in records if one.request.class_name == "interactive"]
    return short, [one for one in records if one.request.class_name == class_name]


def kept(records: Sequence[Record], budget_s: float = BUDGET_S) -> float:
    return sum(one.ttft_s is not None and one.ttft_s <= budget_s for one in records) / len(records)


def p99_s(records: Sequence[Record]) -> float:
    return percentile([one.ttft_s for one in records if one.ttft_s is not None], 0.99)


@pytest.mark.parametrize("class_name", ["standard", "batch"])
@pytest.mark.parametrize(("burst", "tokens"), [(6, 8000), (12, 4000), (40, 1500)])
def test_long_prompts_take_no_promise_of_short_ones(burst, tokens, class_name):
    short, long = served(burst, tokens, class_name)
    assert kept(short) == kept(long, 10.0) == 1.0
    assert p99_s(short) < 1.1


@pytest.mark.parametrize(("burst", "tokens"), [(6, 8000), (12, 4000), (40, 1500), (3, 16_000)])
def test_where_prompts_share_steps_short_ones_are_sooner_and_long_ones_hardly_later(burst, tokens):
    short, long = served(burst, tokens, "batch", share=512)
    before, long_before = served(burst, tokens, "batch")
    assert kept(short) == kept(long, 60.0) == 1.0
    assert p99_s(short) < min(0.6, p99_s(before))
    assert p99_s(long) < 1.1 * p99_s(long_before)


def test_without_room_for_prompts_they_do():
    for burst, tokens, least_lost in ((6, 8000, 0.1), (12, 4000, 0.08), (40, 1500, 0.03)):
        short, _ = served(burst, tokens, "batch", prefill_share=NO_PREFILL_SHARE)
        assert kept(short) < 1.0 - least_lost


def test_a_prompt_that_takes_most_of_the_promise_is_in_the_way_of_few():
    short, long = served(3, 16_000, "batch")
    assert kept(short) > 0.97
    assert kept(long, 60.0) == 1.0
    without, _ = served(3, 16_000, "batch", prefill_share=NO_PREFILL_SHARE)
    assert kept(without) < 0.91
