"""Every ticket is told of once, with what is known of it."""

from __future__ import annotations

import math

import pytest

from app.flow.config import ClassPolicy, FlowConfig
from app.flow.controller import FlowController, Limits
from app.flow.endings import Ended
from app.flow.outcome import Outcome
from app.flow.ticket import ReplicaReport, Ticket, Usage

LIMITS = Limits(1, 60.0, requests_per_replica=1, lease_ttl_s=15.0, replica_ttl_s=50.0)
CONFIG = FlowConfig(
    classes=(ClassPolicy("only", 0.0, 0.0, ttft_budget_s=40.0, deadline_s=100.0),), default_class="only"
)


@pytest.fixture
def ends() -> list[Ended]:
    return []


@pytest.fixture
def flow(ends: list[Ended]) -> FlowController:
    flow = FlowController(LIMITS, CONFIG, lambda: 0.0, ends.append)
    flow.report(ReplicaReport("r", frozenset({"adopted"})), 0.0)
    flow.close("adopted", Outcome.COMPLETED, 0.0, Usage(1, 2))
    assert ends == [Ended(Outcome.COMPLETED, 0.0, usage=Usage(1, 2))]
    ends.clear()
    return flow


def submit(flow: FlowController, name: str, at_s: float = 10.0) -> None:
    flow.submit(Ticket(name, 0, at_s, "team", ttft_budget_s=30.0, operation="chat"), at_s)


def test_a_served_request(flow: FlowController, ends: list[Ended]):
    submit(flow, "a")
    usage = Usage(3, 5, 2.0, 1.0)
    flow.close("a", Outcome.COMPLETED, 14.0, usage)
    [end] = ends
    assert end[:7] == (Outcome.COMPLETED, 14.0, "only", "team", "chat", 4.0, 2.0)
    assert end.predicted_ttft_s is not None
    assert end[8:] == (30.0, 100.0, usage, 1)
    assert end.tpot_s == 0.25


def test_of_several_answers_each_has_its_part_of_the_tokens(flow: FlowController, ends: list[Ended]):
    flow.submit(Ticket("a", 0, 10.0, "team", answers=4), 10.0)
    flow.close("a", Outcome.COMPLETED, 14.0, Usage(3, 20, 2.0, 1.0))
    assert ends[0].tpot_s == 0.25
    assert ends[0]._replace(usage=Usage(3, 7, 2.0, 1.0)).tpot_s is None


def test_one_whose_engine_did_not_say_when_it_began(flow: FlowController, ends: list[Ended]):
    submit(flow, "a")
    flow.first_tokens([("a", 13.0)], 13.0)
    flow.close("a", Outcome.FAILED, 14.0)
    assert (ends[0].ttft_s, ends[0].total_s, ends[0].tpot_s) == (3.0, 4.0, None)


def test_one_of_a_replica_that_is_gone_and_one_that_nobody_names(flow: FlowController, ends: list[Ended]):
    submit(flow, "a")
    flow.tick(30.0)
    submit(flow, "b", 31.0)
    flow.replica_gone("r", 32.0)
    assert [(end.outcome, end.at_s, end.total_s, end.ttft_s) for end in ends] == [
        (Outcome.LEASE_EXPIRED, 30.0, 20.0, None),
        (Outcome.FAILED, 32.0, 1.0, None),
    ]


def test_those_without_a_lease(flow: FlowController, ends: list[Ended]):
    submit(flow, "running")
    submit(flow, "a")
    submit(flow, "full", 11.0)
    flow.close("a", Outcome.CANCELLED, 12.0)
    flow.drain(13.0)
    submit(flow, "late", 13.0)
    assert [(end.outcome, end.class_name, end.tenant, end.total_s) for end in ends] == [
        (Outcome.REJECTED_FULL, "only", "team", 0.0),
        (Outcome.CANCELLED, "only", "team", 2.0),
        (Outcome.REJECTED_DRAINING, "only", "team", 0.0),
    ]
    assert {(end.ttft_s, end.predicted_ttft_s, end.usage) for end in ends} == {(None, None, None)}
    assert Ended(Outcome.CANCELLED, 0.0).deadline_s == math.inf
