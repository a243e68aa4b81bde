"""What a plan carries and how fast it is at a rate: the formulas and the simulator say the same."""

import pytest

from placement.coefficients import default_coefficients
from placement.hardware import parse_cluster
from placement.memory import plan_memory
from placement.models import find_model
from placement.plans import ParallelPlan
from placement.serving import Slo, alone_us, expected_running, simulate, steady_capacity
from placement.simulator import Simulation
from placement.step_time import StepModel, decode
from placement.workload import Arrivals, Workload, parse_workload, uniform_asks

MODEL, CLUSTER = find_model("llama70b"), parse_cluster("8xh100")
WORKLOAD = parse_workload("1024/256@8")


def priced(*grid, chunk, weights="bfloat16", share=None, **limits):
    plan = ParallelPlan(
        *grid, weight_dtype=weights, max_batched_tokens=chunk, prompt_step_tokens=share, **limits
    )
    steps = StepModel(MODEL, CLUSTER, plan, default_coefficients())
    return steps, plan_memory(MODEL, CLUSTER.gpu, plan).kv_tokens


@pytest.mark.parametrize("chunk", [512, 2048])
def test_a_longer_run_of_a_pipeline_says_the_same(chunk):
    steps, kv_tokens = priced(2, 4, chunk=chunk)
    running = expected_running(steps, WORKLOAD, 8, steps.plan.max_running)
    short, long = (
        simulate(steps, kv_tokens, WORKLOAD, 8, requests=turnovers * running, seed=1).tpot_p50_ms
        for turnovers in (4, 12)
    )
    assert short == pytest.approx(long, rel=0.12)


def test_the_last_clients_of_a_closed_loop_are_not_served_by_an_engine_that_empties():
    steps, kv_tokens = priced(2, 4, chunk=512)
    clients = parse_workload("1024/256@64c")
    short, long = (simulate(steps, kv_tokens, clients, 0.0, requests=n, seed=1) for n in (192, 640))
    assert short.tpot_p50_ms == pytest.approx(long.tpot_p50_ms, rel=0.05)


def test_clients_of_a_closed_loop_do_not_come_as_one_burst_again_and_again():
    steps, kv_tokens = priced(2, 4, chunk=2048, share=256)
    few, many = (
        simulate(steps, kv_tokens, parse_workload(f"1024/256@{clients}c"), 0.0, requests=600, seed=1)
        for clients in (8, 100)
    )
    alone = simulate(steps, kv_tokens, parse_workload("1024/256@1c"), 0.0, requests=5, seed=1)
    assert few.ttft_p50_ms < 1.2 * alone.ttft_p50_ms
    assert many.ttft_p50_ms < 2 * alone.ttft_p50_ms


def test_all_clients_have_begun_before_what_is_counted():
    steps, kv_tokens = priced(8, chunk=2048)
    clients = parse_workload("256/16@64c")
    short, long = (simulate(steps, kv_tokens, clients, 0.0, requests=n, seed=1) for n in (192, 640))
    assert short.tpot_p50_ms == pytest.approx(long.tpot_p50_ms, rel=0.1)


@pytest.mark.parametrize("chunk", [512, 2048])
def test_as_many_requests_of_a_pipeline_are_in_flight_as_expected(chunk):
    steps, kv_tokens = priced(2, 4, chunk=chunk)
    latency = simulate(steps, kv_tokens, WORKLOAD, 8, requests=600, seed=1)
    residence_s = (latency.ttft_p50_ms + 255 * latency.tpot_p50_ms) / 1e3
    running = expected_running(steps, WORKLOAD, 8, steps.plan.max_running)
    assert running == pytest.approx(8 * residence_s, rel=0.25)


@pytest.mark.parametrize(
    ("grid", "chunk", "weights", "share", "lengths"),
    [
        ((2, 4), 2048, "bfloat16", None, "1024/256"),
        ((2, 4), 512, "bfloat16", None, "1024/256"),
        ((2, 4), 2048, "bfloat16", 512, "1024/256"),
        ((2, 4), 2048, "bfloat16", 256, "1024/256"),
        ((4, 2), 2048, "bfloat16", None, "1024/256"),
        ((4, 2), 2048, "bfloat16", 256, "1024/256"),
        ((1, 4), 2048, "fp8", None, "1024/256"),
        ((2, 2), 8192, "fp8", None, "1024/256"),
        ((8, 1), 2048, "bfloat16", None, "1024/256"),
        ((2, 1), 2048, "fp8", None, "1024/256"),
        ((2, 1), 2048, "fp8", 256, "1024/256"),
        # A whole prompt in one step of many.
        ((2, 1), 8192, "fp8", None, "4096/512"),
        # A prompt is one chunk: nothing but their arrival spreads requests over the batches of a pipeline.
        ((2, 4), 2048, "bfloat16", None, "256/256"),
    ],
)
def test_simulated_requests_begin_to_break_the_promise_within_a_fifth_of_the_capacity(
    grid, chunk, weights, share, lengths
):
    steps, kv_tokens = priced(*grid, chunk=chunk, weights=weights, share=share)
    workload = parse_workload(lengths)
    capacity = steady_capacity(steps, kv_tokens, workload, Slo(tpot_p50_ms=50))
    assert capacity.limit == "TPOT"
    below, above = (
        simulate(steps, kv_tokens, workload, share * capacity.requests_per_s, requests=600, seed=1)
        for share in (0.8, 1.2)
    )
    assert below.tpot_p50_ms <= 50 < above.tpot_p50_ms


def saturated_per_s(steps, kv_tokens, workload, requests=600):
    """Of a replica that never lacks requests: the middle half of a run."""
    plan = steps.plan
    simulation = Simulation(steps, kv_tokens, plan.max_batched_tokens, plan.max_running)
    asks = uniform_asks(requests, workload.prompt_tokens, workload.output_tokens, shortest_share=1.0, seed=1)
    served = simulation.run(Workload(asks, Arrivals(concurrency=plan.max_running)))
    ends = sorted(request.finished_s for request in served)[requests // 4 : 3 * requests // 4]
    return (len(ends) - 1) / (ends[-1] - ends[0])


@pytest.mark.parametrize("lengths", ["2048/128", "4000/64", "1024/256", "7900/8", "7900/1"])
def test_without_a_pipeline_the_prompts_fill_the_steps_before_all_that_may_run_does(lengths):
    steps, kv_tokens = priced(8, chunk=512)
    workload = parse_workload(lengths)
    capacity = steady_capacity(steps, kv_tokens, workload, Slo())
    assert capacity.limit == "prefill"
    assert capacity.requests_per_s == pytest.approx(saturated_per_s(steps, kv_tokens, workload), rel=0.06)


@pytest.mark.parametrize("grid", [(2, 2), (4, 2)])
def test_so_do_they_in_a_pipeline_with_small_steps(grid):
    steps, kv_tokens = priced(*grid, chunk=512, weights="fp8")
    capacity = steady_capacity(steps, kv_tokens, WORKLOAD, Slo())
    assert capacity.limit == "prefill"
    assert capacity.requests_per_s == pytest.approx(
        saturated_per_s(steps, kv_tokens, WORKLOAD, 1200), rel=0.06
    )


def test_a_request_alone_waits_for_no_prompt_but_its_own():
    steps, kv_tokens = priced(4, chunk=2048)
    workload = parse_workload("7900/8@0.1")
    alone = simulate(steps, kv_tokens, workload, 0.05, requests=120, seed=1)
    assert alone_us(steps, 7900, 8) / 1e3 == pytest.approx(alone.tpot_p50_ms, rel=0.02)
    capacity = steady_capacity(steps, kv_tokens, workload, Slo(tpot_p50_ms=50))
    assert capacity.limit == "TPOT"
    assert 0 < capacity.running < 1
    below = simulate(steps, kv_tokens, workload, 0.4 * capacity.requests_per_s, requests=600, seed=1)
    assert below.tpot_p50_ms < 50
    tight = steady_capacity(steps, kv_tokens, workload, Slo(tpot_p50_ms=10))
    assert (tight.requests_per_s, tight.tpot_ms) == (0, alone_us(steps, 7900, 8) / 1e3)


def test_a_single_token_has_no_time_between_tokens_to_promise():
    steps, kv_tokens = priced(8, chunk=2048)
    free, promised = (
        steady_capacity(steps, kv_tokens, parse_workload("7900/1"), slo)
        for slo in (Slo(), Slo(tpot_p50_ms=1))
    )
    assert free == promised


def test_of_two_promises_the_tighter_one_decides():
    steps, kv_tokens = priced(8, chunk=2048)
    slos = (Slo(tpot_p99_ms=30), Slo(tpot_p50_ms=100, tpot_p99_ms=30), Slo(tpot_p50_ms=100))
    tight, both, wide = (steady_capacity(steps, kv_tokens, WORKLOAD, slo) for slo in slos)
    assert tight == both
    assert both.requests_per_s < wide.requests_per_s


def test_no_more_run_than_the_scheduler_in_front_lets_in():
    (whole, kv_tokens), (few, _) = (priced(8, chunk=2048, admitted=admitted) for admitted in (None, 16))
    assert steady_capacity(few, kv_tokens, WORKLOAD, Slo()).running == 16
    # Graphs and logits are the engine's own.
    assert few.layer_us(decode(200, 100)) == whole.layer_us(decode(200, 100))
    rate = 1.5 * steady_capacity(few, kv_tokens, WORKLOAD, Slo()).requests_per_s
    waits, flows = (
        simulate(steps, kv_tokens, WORKLOAD, rate, requests=300, seed=1) for steps in (few, whole)
    )
    assert waits.ttft_p50_ms > 10 * flows.ttft_p50_ms
