"""What is sent: seeded, open loop, unique, and within the window."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from benchmarks.arrivals import Lengths, api_keys, at_once, calls, key, poisson, prompt
from placement.simulation.workload import Mix

CLASSES = ("interactive", "standard", "batch")
MIX = Mix(tenants=4, zipf=1.0, classes=CLASSES, shares=(0.3, 0.4, 0.3))
LENGTHS = Lengths()


def arrivals(seed: str = "0", rate_per_s: float = 20.0, duration_s: float = 100.0):
    return poisson(duration_s, rate_per_s, seed, LENGTHS, MIX)


def test_the_same_seed_gives_the_same_requests():
    assert arrivals() == arrivals()
    assert arrivals("1") != arrivals("0")


def test_gaps_are_exponential_about_the_rate():
    gaps_s = [later.arrived_s - earlier.arrived_s for earlier, later in pairwise(arrivals())]
    assert fmean(gaps_s) == pytest.approx(1 / 20, rel=0.07)
    # An exponential's deviation is its mean.
    assert pstdev(gaps_s) == pytest.approx(fmean(gaps_s), rel=0.07)


def test_arrivals_stay_within_the_duration():
    assert arrivals()[0].arrived_s > 0
    assert arrivals()[-1].arrived_s < 100


def test_classes_come_in_their_shares_and_tenants_by_zipf():
    requests = arrivals()
    classes = Counter(one.class_name for one in requests)
    tenants = Counter(one.tenant for one in requests)
    assert [classes[name] / len(requests) for name in CLASSES] == pytest.approx([0.3, 0.4, 0.3], abs=0.03)
    assert tenants["tenant-01"] / tenants["tenant-02"] == pytest.approx(2, rel=0.2)


def test_lengths_keep_their_maxima():
    requests = arrivals()
    assert max(one.prompt_tokens for one in requests) <= LENGTHS.prompt_max
    assert max(one.output_tokens for one in requests) <= LENGTHS.output_max


def test_lengths_that_do_not_fit_the_window_are_refused():
    with pytest.raises(ValueError, match="do not fit max_model_len"):
        LENGTHS.check(max_model_len=512)


def test_the_maxima_go_with_the_medians():
    assert Lengths.about(LENGTHS.prompt_median, LENGTHS.output_median) == LENGTHS
    double = Lengths.about(2 * LENGTHS.prompt_median, 2 * LENGTHS.output_median)
    assert (double.prompt_max, double.output_max) == (2 * LENGTHS.prompt_max, 2 * LENGTHS.output_max)
    with pytest.raises(ValueError, match="do not fit max_model_len"):
        double.check(max_model_len=2 * LENGTHS.prompt_max)


def test_no_two_prompts_begin_alike():
    requests = arrivals(rate_per_s=5.0) + arrivals("1", rate_per_s=5.0)
    beginnings = {tuple(prompt(one).split()[:16]) for one in requests if one.prompt_tokens >= 16}
    assert len(beginnings) == sum(one.prompt_tokens >= 16 for one in requests)


def test_a_call_states_class_and_tenant():
    (request,) = at_once(1, "0", LENGTHS, MIX)
    (call,) = calls([request], "tiny", "chat")
    body = json.loads(call.body)
    assert body["service_tier"] == request.class_name
    assert body["max_tokens"] == request.output_tokens
    assert "priority" not in body
    (ranked,) = calls([request], "tiny", "chat", {request.class_name: 2})
    assert json.loads(ranked.body) == body | {"priority": 2}
    assert body["messages"] == [{"role": "user", "content": prompt(request)}]
    assert call.head("host").count(f"Authorization: Bearer {key(request.tenant)}\r\n".encode()) == 1


def test_servers_are_told_the_hashes_of_the_keys():
    hashed = hashlib.sha256(key("tenant-01").encode()).hexdigest()
    assert api_keys(["tenant-01"]) == {"tenant-01": [hashed]}
