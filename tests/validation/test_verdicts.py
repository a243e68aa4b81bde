"""From measurements to verdicts: each promise fails for its own reason, and none is silent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.promises import PromisesConfig
from app.validation.measured import (
    EngineSample,
    Filling,
    Latency,
    Measurements,
    NotMeasured,
    RankState,
    Throughput,
)
from app.validation.verdicts import (
    Status,
    completion_rate,
    judge,
    kept,
    memory_shares,
    rank_loads,
    spread,
)

GIB = 2**30
PROMISES = PromisesConfig(requests_per_s=2.0, load_imbalance=0.1, memory_imbalance=0.1)
KV_TOKENS = 1000


def rank(number: int, busy_s: float | None = None, memory_gib: float = 6.0, **options) -> RankState:
    state = RankState("replica-a", number, f"GPU {number}", int(memory_gib * GIB), 10 * GIB, busy_s)
    return replace(state, **options)


def filling(**changes) -> Filling:
    samples = (EngineSample(0, 0.0, 0, 5), EngineSample(1, 0.9, 9, 5), EngineSample(2, 0.8, 10, 6))
    whole = Filling(samples, 1200, 10, 10, 100, "every place was taken")
    return replace(whole, **changes)


# All promises kept.
GOOD = Measurements(
    latency=Latency(64, 16, 2, ttfts_ms=(100.0, 200.0, 900.0), tpots_ms=(10.0, 20.0, 90.0)),
    throughput=Throughput(20, 2.0, tuple(0.5 * number for number in range(20)), {}),
    filling=filling(),
    ranks_loaded=((rank(0, 1.0), rank(1, 1.0)), (rank(0, 2.0), rank(1, 2.05))),
    ranks_full=(rank(0), rank(1)),
    requests=30,
    failures={},
)
ALL = [
    *("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms", "requests_per_s", "memory_share"),
    *("kv_tokens", "preemptions_per_request", "load_imbalance", "memory_imbalance", "error_share"),
]


def verdicts(measured: Measurements, promises: PromisesConfig = PROMISES):
    found = judge(promises, KV_TOKENS, measured)
    assert [verdict.promise for verdict in found] == ALL
    return {verdict.promise: verdict for verdict in found}


def failing(measured: Measurements) -> list[str]:
    return [name for name, verdict in verdicts(measured).items() if verdict.status is Status.FAIL]


def unknown(measured: Measurements) -> list[str]:
    return [name for name, one in verdicts(measured).items() if one.status is Status.NOT_MEASURABLE]


def test_what_is_promised_and_shown_passes():
    found = verdicts(GOOD)
    assert {verdict.status for verdict in found.values()} == {Status.PASS}
    assert kept(list(found.values()))
    assert found["ttft_p50_ms"].measured == 200.0
    assert found["ttft_p99_ms"].detail == "3 requests of 64/16 tokens, 2 at a time; the largest of 3"
    assert found["ttft_p50_ms"].detail == "3 requests of 64/16 tokens, 2 at a time"
    assert found["memory_share"].measured == pytest.approx(60.0)
    assert found["load_imbalance"].measured == pytest.approx(100 * 0.05 / 1.025)
    assert found["preemptions_per_request"].measured == 0.1


@pytest.mark.parametrize(
    ("field", "value", "broken"),
    [
        ("latency", Latency(64, 16, 2, (600.0, 700.0, 800.0), (1.0,)), "ttft_p50_ms"),
        ("latency", Latency(64, 16, 2, (1.0, 2.0, 1001.0), (1.0,)), "ttft_p99_ms"),
        ("latency", Latency(64, 16, 2, (1.0,), (60.0, 70.0, 80.0)), "tpot_p50_ms"),
        ("latency", Latency(64, 16, 2, (1.0,), (1.0, 2.0, 101.0)), "tpot_p99_ms"),
        ("throughput", Throughput(20, 2.0, tuple(0.6 * n for n in range(20)), {}), "requests_per_s"),
        ("throughput", Throughput(20, 2.0, (3.0,), {"429 rejected_full": 19}), "requests_per_s"),
        ("ranks_full", (rank(0, memory_gib=8.6), rank(1, memory_gib=8.6)), "memory_share"),
        ("filling", filling(kv_tokens=999), "kv_tokens"),
        ("filling", filling(started=9), "preemptions_per_request"),
        ("ranks_loaded", ((rank(0, 0.0), rank(1, 0.0)), (rank(0, 1.0), rank(1, 1.2))), "load_imbalance"),
        ("ranks_full", (rank(0, memory_gib=5.0), rank(1, memory_gib=6.0)), "memory_imbalance"),
        ("failures", {"latency failed 500": 1}, "error_share"),
    ],
)
def test_a_broken_promise_fails_and_no_other(field: str, value: object, broken: str):
    measured = replace(GOOD, **{field: value})
    assert failing(measured) == [broken]
    assert not kept(judge(PROMISES, KV_TOKENS, measured))


@pytest.mark.parametrize(
    ("field", "value", "silent"),
    [
        ("latency", NotMeasured("why"), ALL[:4]),
        ("throughput", NotMeasured("why"), ["requests_per_s"]),
        ("filling", NotMeasured("why"), ["kv_tokens", "preemptions_per_request"]),
        ("ranks_loaded", NotMeasured("why"), ["load_imbalance"]),
        ("ranks_full", NotMeasured("why"), ["memory_share", "memory_imbalance"]),
    ],
)
def test_what_was_not_measured_says_why_and_breaks_nothing(field: str, value: object, silent: list[str]):
    measured = replace(GOOD, **{field: value})
    assert unknown(measured) == silent
    assert failing(measured) == []
    assert {verdicts(measured)[name].detail for name in silent} == {"why"}


@pytest.mark.parametrize(
    ("field", "value", "silent", "detail"),
    [
        ("latency", Latency(64, 16, 2, (), (), 7), "ttft_p50_ms", "no request completed, 7 were refused"),
        ("ranks_full", (), "memory_share", "no rank says what it holds"),
        ("filling", filling(kv_tokens=None), "kv_tokens", "the engine does not say how many tokens"),
        ("filling", filling(started=0), "preemptions_per_request", "no request began to answer"),
        ("ranks_loaded", ((rank(0),),), "load_imbalance", "no rank says how busy it is"),
        ("ranks_loaded", ((rank(0, 1.0),), (rank(0, 2.0),)), "load_imbalance", "there is one rank"),
        ("ranks_loaded", ((rank(0, 1.0), rank(1, 1.0)),) * 2, "load_imbalance", "no rank did anything"),
        ("ranks_full", (rank(0),), "memory_imbalance", "there is one rank"),
        ("requests", 0, "error_share", "no request was sent"),
    ],
)
def test_what_can_not_be_known_here_is_told(field: str, value: object, silent: str, detail: str):
    verdict = verdicts(replace(GOOD, **{field: value}))[silent]
    assert verdict.status is Status.NOT_MEASURABLE
    assert verdict.measured is None
    assert detail in verdict.detail


def test_details_name_refusals_failures_and_extremes():
    latency = replace(GOOD.latency, refused=3)
    throughput = replace(GOOD.throughput, refusals={"429 rejected_full": 2, "429 evicted_deadline": 1})
    measured = replace(GOOD, latency=latency, throughput=throughput, failures={"memory broken 200": 2})
    found = verdicts(measured)
    assert "3 more were refused" in found["ttft_p50_ms"].detail
    assert found["requests_per_s"].detail.endswith("refused: 2 429 rejected_full, 1 429 evicted_deadline")
    assert found["error_share"].detail == "2 of 30 requests: 2 x memory broken 200"
    assert found["load_imbalance"].detail.endswith("1 (replica-/0) to 1.05 (replica-/1), 2 ranks")
    assert found["memory_share"].detail == "GPU 0, the cache 90 % full"
    unfilled = verdicts(replace(GOOD, filling=NotMeasured("why")))
    assert unfilled["memory_share"].detail == "GPU 0"


def test_gpus_are_balanced_by_their_mean_utilisation():
    moments = tuple((rank(0, utilisation=used), rank(1, utilisation=0.5)) for used in (0.4, 0.6))
    assert rank_loads(moments) == {"replica-/0": pytest.approx(50.0), "replica-/1": pytest.approx(50.0)}
    found = verdicts(replace(GOOD, ranks_loaded=moments))["load_imbalance"]
    assert (found.status, found.detail.split(":")[0]) == (Status.PASS, "GPU utilisation")


def test_ranks_of_one_device_add_up():
    shared = tuple(rank(number, memory_gib=4.5, device="CPU of here") for number in range(2))
    assert memory_shares(shared) == {"CPU of here": pytest.approx(0.9)}


def test_the_peaks_and_the_preemptions_of_a_filling():
    one = filling()
    assert (one.peak_kv_use, one.peak_running, one.preemptions) == (0.9, 10, 1)
    none = filling(samples=())
    assert (none.peak_kv_use, none.peak_running, none.preemptions) == (0.0, 0, 0)


@pytest.mark.parametrize(
    ("ended_s", "rate"),
    [
        ((), 0.0),
        ((1.0,), 0.0),
        # The first quarter, which found an idle engine, does not count.
        ((0.1, 0.2, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0), 1.0),
        ((4.0, 3.0, 2.0, 1.0), 1.0),
    ],
)
def test_the_rate_is_that_between_completions(ended_s: tuple[float, ...], rate: float):
    assert completion_rate(ended_s) == pytest.approx(rate)


def test_spread():
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(1.0)
