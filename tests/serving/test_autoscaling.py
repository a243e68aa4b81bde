"""What Serve's controller calls, and what it is told; how many are asked for is tested in tests/flow."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
from ray import cloudpickle
from ray.serve.config import AutoscalingPolicy

from app.flow.autoscale import ADOPT_LATE_S
from app.serving import said
from app.serving.autoscaling import DESIRED, FOLLOWER_S, STALE_S, EnginePolicy, HandOnPolicy


@dataclass(frozen=True)
class Sample:
    """As Serve's time series have it."""

    value: float
    timestamp: float


@dataclass(frozen=True)
class Context:
    """What the policies read of Serve's `AutoscalingContext`."""

    app_name: str
    target_num_replicas: int = 1
    raw_metrics: dict[str, dict[str, list[Sample]]] | None = None


@pytest.fixture(autouse=True)
def _nothing_said():
    said.by_application.clear()


def say(*samples: Sample, app: str = "llm") -> tuple[int, dict]:
    return HandOnPolicy()(Context(app, raw_metrics={DESIRED: {"scheduler": list(samples)}}))


# Of a deployment that is older than what is said.
DEPLOYED = EnginePolicy()


def engines(app: str = "llm", target: int = 2, policy: EnginePolicy = DEPLOYED) -> int:
    count, state = policy(Context(app, target))
    assert state == {}
    return count


def test_the_engines_become_as_many_as_the_scheduler_says_and_the_scheduler_stays_one():
    assert say(Sample(5.0, time.time())) == (1, {})
    assert engines() == 5


def test_zero_is_a_number():
    say(Sample(0.0, time.time()))
    assert engines() == 0


def test_the_newest_word_counts_not_the_mean_of_a_window():
    now_s = time.time()
    say(Sample(1.0, now_s - 1.0), Sample(4.0, now_s))
    assert engines() == 4


def test_a_new_scheduler_outweighs_the_one_that_it_follows():
    now_s = time.time()
    HandOnPolicy()(
        Context(
            "llm", raw_metrics={DESIRED: {"old": [Sample(9.0, now_s - 5.0)], "new": [Sample(3.0, now_s)]}}
        )
    )
    assert engines() == 3


def test_a_scheduler_that_follows_another_takes_back_no_engine_that_may_be_starting():
    now_s, hand_on = time.time(), HandOnPolicy()

    def says(speaker: str, engines: float, at_s: float, policy: HandOnPolicy = hand_on) -> None:
        policy(Context("llm", raw_metrics={DESIRED: {speaker: [Sample(engines, at_s)]}}))

    says("old", 5.0, now_s - 20.0)
    says("new", 3.0, now_s - 10.0)
    says("new", 3.0, now_s)
    assert engines(target=5) == 5
    says("new", 6.0, now_s)
    assert engines(target=5) == 6
    # The first scheduler of an application that is deployed anew follows nobody.
    says("another", 3.0, now_s, HandOnPolicy())
    assert engines(target=5) == 3


def test_after_a_while_they_have_come_or_never_will():
    now_s, hand_on = time.time(), HandOnPolicy()
    for speaker, at_s in (
        ("old", now_s - FOLLOWER_S - 9.0),
        ("new", now_s - FOLLOWER_S - 1.0),
        ("new", now_s),
    ):
        hand_on(Context("llm", raw_metrics={DESIRED: {speaker: [Sample(3.0, at_s)]}}))
    assert engines(target=5) == 3


def test_a_new_deployment_does_not_hear_what_was_said_before():
    say(Sample(5.0, time.time()))
    new = EnginePolicy()
    assert engines(target=0, policy=new) == 0
    say(Sample(3.0, time.time()))
    assert engines(target=0, policy=new) == 3


def test_an_application_hears_its_own_scheduler_only():
    say(Sample(5.0, time.time()), app="other")
    assert engines("llm", target=2) == 2


@pytest.mark.parametrize("metrics", [None, {}, {DESIRED: {}}, {DESIRED: {"scheduler": []}}])
def test_without_a_word_nothing_changes(metrics):
    assert HandOnPolicy()(Context("llm", raw_metrics=metrics)) == (1, {})
    assert engines(target=3) == 3


def test_an_old_word_is_none():
    say(Sample(5.0, time.time() - STALE_S - 1.0))
    assert engines(target=3) == 3


def test_policies_that_serve_has_pickled_hear_of_each_other():
    """By value, each on its own: as Serve's controller gets them."""
    policies = [
        cloudpickle.loads(
            AutoscalingPolicy(policy_function=f"app.serving.autoscaling:{name}").get_serialized_policy_def()
        )
        for name in ("HandOnPolicy", "EnginePolicy")
    ]
    hand_on, engine = (policy() for policy in policies)
    hand_on(Context("llm", raw_metrics={DESIRED: {"scheduler": [Sample(4.0, time.time())]}}))
    assert engine(Context("llm", 1)) == (4, {})


def test_a_new_scheduler_keeps_what_it_hears_of_for_as_long_as_serve_waits_for_its_word():
    assert ADOPT_LATE_S >= FOLLOWER_S
