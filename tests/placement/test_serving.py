"""What a plan carries and how fast it is at a rate: the formulas and the simulator say the same."""

import pytest

from placement.coefficients import default_coefficients
from placement.hardware import parse_cluster
from placement.memory import plan_memory
from placement.models import find_model
from placement.plans import ParallelPlan
from placement.serving import Slo, expected_running, simulate, steady_capacity
from placement.step_time import StepModel
from placement.workload import parse_workload

MODEL, CLUSTER = find_model("llama70b"), parse_cluster("8xh100")
WORKLOAD = parse_workload("1024/256@8")


def priced(*grid, chunk, weights="bfloat16", share=None):
    plan = ParallelPlan(*grid, weight_dtype=weights, max_batched_tokens=chunk, prompt_step_tokens=share)
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


@pytest.mark.parametrize("chunk", [512, 2048])
def test_as_many_requests_of_a_pipeline_are_in_flight_as_expected(chunk):
    steps, kv_tokens = priced(2, 4, chunk=chunk)
    latency = simulate(steps, kv_tokens, WORKLOAD, 8, requests=600, seed=1)
    residence_s = (latency.ttft_p50_ms + 255 * latency.tpot_p50_ms) / 1e3
    running = expected_running(steps, WORKLOAD, 8, steps.plan.max_running)
    assert running == pytest.approx(8 * residence_s, rel=0.25)


@pytest.mark.parametrize(
    ("grid", "chunk", "weights", "share"),
    [
        ((2, 4), 2048, "bfloat16", None),
        ((2, 4), 512, "bfloat16", None),
        ((2, 4), 2048, "bfloat16", 512),
        ((2, 4), 2048, "bfloat16", 256),
        ((4, 2), 2048, "bfloat16", None),
        ((4, 2), 2048, "bfloat16", 256),
        ((1, 4), 2048, "fp8", None),
        ((2, 2), 8192, "fp8", None),
        ((8, 1), 2048, "bfloat16", None),
        ((2, 1), 2048, "fp8", None),
        ((2, 1), 2048, "fp8", 256),
    ],
)
def test_simulated_requests_begin_to_break_the_promise_within_a_fifth_of_the_capacity(
    grid, chunk, weights, share
):
    steps, kv_tokens = priced(*grid, chunk=chunk, weights=weights, share=share)
    capacity = steady_capacity(steps, kv_tokens, WORKLOAD, Slo(tpot_p50_ms=50))
    assert capacity.limit == "TPOT"
    below, above = (
        simulate(steps, kv_tokens, WORKLOAD, share * capacity.requests_per_s, requests=600, seed=1)
        for share in (0.8, 1.2)
    )
    assert below.tpot_p50_ms <= 50 < above.tpot_p50_ms
