"""The simulator: its engine, its workloads, its figures, and the promises that a run must keep."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import correlation, mean, stdev

import pytest

from app.flow.config import default_classes
from app.flow.outcome import Outcome
from app.flow.ticket import Action, Granted, Lease, Revoke, Ticket
from placement.cli import main
from placement.simulation.engine import ENGINES, EngineShape, LinearStep, SimulatedEngine
from placement.simulation.experiment import POLICIES, Experiment, run
from placement.simulation.noise import Noise, NoisyPace
from placement.simulation.peers import RoundRobin
from placement.simulation.simulator import Record, Setup, Simulator, capacity_per_s
from placement.simulation.summary import jain_index, max_min_shares, percentile, promise_of
from placement.simulation.workload import (
    Mix,
    Request,
    at_rate,
    poisson,
    read_azure_trace,
    sessions,
    spread,
)

TRACE = Path(__file__).parents[3] / "shared" / "traces" / "azure_llm_2023_conv.csv"
needs_trace = pytest.mark.skipif(not TRACE.exists(), reason="the Azure trace is not beside the repository")
STEP = LinearStep(base_s=1.0, prefill_token_s=0.0, sequence_s=0.0, context_token_s=0.0)


def finish_all(engine: SimulatedEngine) -> dict[str, tuple[float, float]]:
    """First token and end of each request, in seconds."""
    now_s, first, end = 0.0, {}, {}
    while engine.busy:
        now_s += engine.begin()
        done = engine.end(now_s)
        first |= {one.request.request_id: now_s for one in done.first}
        end |= {one.request.request_id: now_s for one in done.finished}
        assert engine.metrics().kv_use <= 1.0
    return {name: (first.get(name, 0.0), end[name]) for name in end}


def test_a_request_takes_a_step_for_its_prompt_and_one_for_each_further_token():
    engine = SimulatedEngine(EngineShape(STEP))
    engine.add(Request("a", 0.0, 100, 5))
    engine.add(Request("b", 0.0, 100, 1))
    assert finish_all(engine) == {"a": (1.0, 5.0), "b": (1.0, 1.0)}
    assert engine.metrics().running == 0
    assert engine._context == 0


def test_long_prompts_are_computed_in_chunks():
    engine = SimulatedEngine(EngineShape(STEP, max_num_batched_tokens=100))
    engine.add(Request("a", 0.0, 250, 2))
    assert finish_all(engine) == {"a": (3.0, 4.0)}


def test_with_shares_a_short_prompt_is_computed_beside_a_long_one():
    engine = SimulatedEngine(EngineShape(STEP, max_num_batched_tokens=100, prompt_step_tokens=50))
    engine.add(Request("a", 0.0, 250, 1))
    engine.add(Request("b", 0.0, 40, 1))
    assert finish_all(engine) == {"a": (5.0, 5.0), "b": (1.0, 1.0)}


def test_the_batch_is_bounded_and_the_rest_waits():
    engine = SimulatedEngine(EngineShape(STEP, max_num_seqs=1))
    for name in "ab":
        engine.add(Request(name, 0.0, 10, 3))
    engine.begin()
    assert (engine.metrics().running, engine.metrics().waiting) == (1, 1)
    engine.end(1.0)
    assert finish_all(engine)["b"][1] == 5.0


def test_a_full_cache_preempts_the_latest_and_computes_it_again():
    engine = SimulatedEngine(EngineShape(STEP, kv_capacity_tokens=40))
    for name in "ab":
        engine.add(Request(name, 0.0, 15, 15))
    times = finish_all(engine)
    assert set(times) == {"a", "b"}
    assert engine.preemptions == 1
    assert engine.wasted_tokens > 15
    assert engine._context == 0


def test_an_aborted_request_leaves_nothing_but_waste():
    engine = SimulatedEngine(EngineShape(STEP, max_num_seqs=2, max_num_batched_tokens=20))
    for name in "abc":
        engine.add(Request(name, 0.0, 15, 5))
    engine.begin()
    engine.end(1.0)
    for name in "abcd":
        engine.abort(name)
    assert not engine.busy
    assert engine._context == 0
    assert engine.wasted_tokens == 20


def test_a_known_prefix_is_not_computed_again():
    engine = SimulatedEngine(EngineShape(STEP, max_num_batched_tokens=256))
    engine.add(Request("a", 0.0, 600, 1, prefix_blocks=(1, 2)))
    assert finish_all(engine)["a"][0] == 3.0
    engine.add(Request("b", 0.0, 600, 1, prefix_blocks=(1, 2, 3)))
    assert finish_all(engine)["b"][0] == 1.0


def test_capacity_is_the_rate_without_a_lack_of_work():
    engine = EngineShape(STEP, max_num_seqs=10)
    requests = [Request(f"q{n}", 0.0, 10, 10) for n in range(400)]
    assert capacity_per_s(engine, requests) == pytest.approx(1.0, rel=0.1)


# Workloads


@needs_trace
def test_the_azure_trace_is_read_whole():
    requests = read_azure_trace(TRACE)
    assert len(requests) == 19_366
    assert requests[0].arrived_s == 0.0
    assert len(requests) / requests[-1].arrived_s == pytest.approx(5.5, abs=0.1)


def test_a_trace_with_a_bad_row_names_it(tmp_path: Path):
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,x\n")
    with pytest.raises(ValueError, match="row 1"):
        read_azure_trace(path)


def test_times_of_a_trace_may_have_a_zone_and_a_fraction_or_not(tmp_path: Path):
    path = tmp_path / "trace.csv"
    times = ("2024-05-10 00:00:00+00:00", "2024-05-10 00:00:01.5000000", "2024-05-10 02:00:02.250000+02:00")
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{at},10,5\n" for at in times))
    assert [request.arrived_s for request in read_azure_trace(path)] == [0.0, 1.5, 2.25]


def test_tenants_follow_their_zipf_shares_and_classes_theirs():
    requests = spread(poisson(20_000, 1.0, seed=0), Mix(tenants=3, zipf=1.0, shares=(2, 1, 1)), seed=1)
    count = {name: sum(one.tenant == name for one in requests) for name in ("tenant-01", "tenant-02")}
    assert count["tenant-01"] / count["tenant-02"] == pytest.approx(2.0, rel=0.1)
    assert sum(one.class_name == "interactive" for one in requests) == pytest.approx(10_000, rel=0.05)


@pytest.mark.parametrize("make", [lambda s: poisson(50, 1.0, s), lambda s: sessions(50, 4, 1.0, s)])
def test_a_seed_gives_the_same_workload_and_another_one_another(make):
    assert make(1) == make(1) != make(2)


def test_arrivals_are_stretched_to_a_rate():
    stretched = [request.arrived_s for request in at_rate(poisson(500, 3.0, 0), 7.0)]
    assert (len(stretched) - 1) / (stretched[-1] - stretched[0]) == pytest.approx(7.0)
    assert at_rate([Request("a", 1.0, 1, 1)] * 2, 5.0)[0].arrived_s == 1.0


def test_a_turn_of_a_session_begins_with_the_one_before():
    requests = sessions(100, 5, 1.0, seed=0)
    last: dict[str, tuple[int, ...]] = {}
    for one in requests:
        assert one.prefix_blocks[: len(last.get(one.session_id, ()))] == last.get(one.session_id, ())
        last[one.session_id] = one.prefix_blocks


# Figures


def test_the_figures_of_fairness_and_percentiles():
    assert jain_index([1.0, 1.0, 1.0]) == 1.0
    assert jain_index([3.0, 0.0, 0.0]) == pytest.approx(1 / 3)
    assert jain_index([]) == jain_index([0.0, 0.0]) == 1.0
    assert max_min_shares({"a": 1.0, "b": 10.0, "c": 10.0}, 11.0) == {"a": 1.0, "b": 5.0, "c": 5.0}
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.25, 1.35], 1.0, places=1) == 1.4
    assert percentile([], 0.5) is None


@pytest.mark.parametrize(
    ("ttft_s", "finished_s", "kept"),
    [(1.0, 3.0, True), (2.1, 3.0, False), (1.0, 50.0, False), (1.0, None, False), (None, None, False)],
)
def test_a_promise_needs_a_first_token_in_time_and_the_pace(ttft_s, finished_s, kept):
    record = Record(Request("a", 0.0, 10, 101, class_name="interactive"), Outcome.COMPLETED)
    record.ttft_s, record.finished_s = ttft_s, finished_s
    assert promise_of(default_classes()).kept(record) is kept


# Runs

REQUESTS = poisson(1500, 1.0, seed=3)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_request_ends_and_the_same_seed_gives_the_same_bytes(policy: str):
    experiment = Experiment(policy=policy, replicas=2, returns=True)
    first, second = run(experiment, REQUESTS), run(experiment, REQUESTS)
    assert json.dumps(first) == json.dumps(second)
    assert sum(first["outcomes"].values()) == first["offered"]


def test_what_no_request_came_to_has_no_figure():
    result = run(Experiment(), [replace(one, class_name="") for one in REQUESTS[:2]])
    unasked = [row for row in result["classes"].values() if not row["offered"]]
    assert unasked
    assert all(row["ttft_p50_s"] is None and row["ttft_p95_s"] is None for row in unasked)


def test_another_seed_gives_another_result():
    assert run(Experiment(seed=0), REQUESTS) != run(Experiment(seed=1), REQUESTS)


def test_schedulers_share_replicas_and_requests_and_every_request_is_counted_once():
    one, two = (run(Experiment(schedulers=count), REQUESTS) for count in (1, 2))
    assert two["offered"] == one["offered"]
    assert 0.5 * one["goodput_share"] < two["goodput_share"]
    with pytest.raises(ValueError, match="4 replicas among 3"):
        run(Experiment(schedulers=3), REQUESTS)


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_no_class_waits_longer_than_its_bound(engine: str):
    result = run(Experiment(engine=engine, replicas=2), REQUESTS)
    for policy in default_classes():
        assert result["classes"][policy.name]["queue_wait_max_s"] <= policy.ttft_budget_s


def test_sessions_find_their_cache_with_affinity():
    requests = sessions(3000, 10, 1.0, seed=0)
    wait = {
        policy: run(Experiment(policy=policy, load=0.8), requests)["classes"]["interactive"]["ttft_p50_s"]
        for policy in ("flow", "flow-no-affinity")
    }
    assert wait["flow"] < wait["flow-no-affinity"]


@needs_trace
def test_at_twice_the_capacity_ours_keeps_more_promises_than_the_peers():
    requests = read_azure_trace(TRACE)[:12_000]
    good = {
        policy: run(Experiment(policy=policy), requests)["goodput_share"]
        for policy in ("flow", "fifo-cap", "strict-priority-ttl", "round-robin")
    }
    assert good.pop("flow") >= 1.3 * max(good.values())


# Noise

STILL = Noise(jitter_share=0.0, wander_share=0.0, stops_per_s=0.0)


@pytest.mark.parametrize("policy", ["flow", "fifo-cap", "round-robin", "strict-priority-ttl"])
def test_with_noise_every_request_still_ends_and_the_seed_decides_all(policy: str):
    plain = Experiment(policy=policy, replicas=2, returns=True)
    noisy = replace(plain, noisy=True)
    first, second = run(noisy, REQUESTS), run(noisy, REQUESTS)
    assert json.dumps(first) == json.dumps(second) != json.dumps(run(plain, REQUESTS))
    assert sum(first["outcomes"].values()) == first["offered"]


def test_a_noisy_engine_stays_slow_for_a_while_and_a_steps_own_length_says_nothing_of_the_next():
    noises = (replace(STILL, wander_share=0.15, wander_s=1.0), replace(STILL, jitter_share=0.15))
    paces = [NoisyPace(noise, "a") for noise in noises]
    wandering, alone = ([one.step_s(0.1) for _ in range(40_000)] for one in paces)
    for steps in (wandering, alone):
        assert mean(steps) == pytest.approx(0.1, rel=0.05)
        assert stdev(steps) == pytest.approx(0.015, rel=0.1)
    assert correlation(wandering[:-1], wandering[1:]) == pytest.approx(math.exp(-0.1), abs=0.05)
    assert correlation(alone[:-1], alone[1:]) == pytest.approx(0.0, abs=0.05)


def test_a_noisy_engine_stands_still_as_often_and_as_long_as_it_is_said():
    pace = NoisyPace(replace(STILL, stops_per_s=0.5, stop_s=0.2), "a")
    stops_s = [one - 0.1 for one in (pace.step_s(0.1) for _ in range(40_000)) if one > 0.1]
    assert len(stops_s) == pytest.approx(0.5 * 4000, rel=0.1)
    assert mean(stops_s) == pytest.approx(0.2, rel=0.1)


class TakesBack(RoundRobin):
    """Gives the first request's place to the second at once, and another when that is asked for the third."""

    def submit(self, ticket: Ticket, now_s: float) -> list[Action]:
        number, granted = int(ticket.ticket_id), super().submit(ticket, now_s)
        if number == 1:
            return [Revoke("0", "r0"), *granted]
        return [*granted, Granted(Lease("0", "r0"), now_s)] if number == 2 else granted


@pytest.mark.parametrize("at_s", [0.0, 2.0])
def test_what_is_taken_back_on_its_way_runs_once_and_what_answers_already_goes_on(at_s: float):
    requests = [Request(str(number), at, 10, 3) for number, at in enumerate((0.0, at_s, 50.0))]
    setup = Setup(EngineShape(STEP), 1, noise=STILL)
    first = Simulator(TakesBack(), setup).run(requests)[0]
    assert first.outcome is Outcome.COMPLETED
    # Each step takes a second.
    assert (first.revokes, first.finished_s > 50.0) == ((1, True) if at_s == 0.0 else (0, False))


# The command


def test_the_command_writes_the_same_bytes_twice(tmp_path: Path):
    arguments = ["simulate", "--generate", "poisson", "--requests", "400", "--replicas", "1", "--seed", "7"]
    for name in ("a.json", "b.json"):
        assert main([*arguments, "--json", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_command_prints_and_reports_a_trace_that_is_not_there(tmp_path: Path, capsys):
    assert main(["simulate", "--generate", "sessions", "--requests", "100", "--policy", "fifo-cap"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"] == "fifo-cap"
    assert main(["simulate", "--trace", str(tmp_path / "none.csv")]) == 2
    assert "none.csv" in capsys.readouterr().err
