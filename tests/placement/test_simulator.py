"""The simulator keeps vLLM's rules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.coefficients import default_coefficients
from placement.hardware import Cluster, find_gpu
from placement.models import find_model
from placement.plans import ParallelPlan
from placement.simulator import Simulation
from placement.step_time import StepModel, decode, prefill
from placement.workload import Arrivals, Ask, Workload, poisson_times_s, uniform_asks

COEFFICIENTS = default_coefficients()


def steps(tensor=2, stages=1):
    plan = ParallelPlan(tensor, stages)
    return StepModel(find_model("llama8b"), Cluster(find_gpu("h100"), 1), plan, COEFFICIENTS)


def serve(workload, *, model=None, kv_tokens=200_000, budget=2048, running=64, share=None):
    simulation = Simulation(model or steps(), kv_tokens, budget, running, share)
    return simulation.run(workload), simulation


def edge_us(prompt):
    """What a request takes outside of the steps."""
    residual = COEFFICIENTS.residual
    return residual.request_fixed_ms * 1e3 + residual.request_per_token_us * prompt


def alone(prompt, output):
    return Workload((Ask(prompt, output),), Arrivals(concurrency=1))


def test_one_request_takes_its_prefill_and_its_decode_steps():
    model = steps()
    (request,), _ = serve(alone(1000, 101), model=model)
    assert request.ttft_s * 1e6 == pytest.approx(model.step_us(prefill(1000)) + edge_us(1000))
    assert request.tpot_s * 1e6 == pytest.approx(model.step_us(decode(1, 1050)), rel=0.01)


@pytest.mark.parametrize(
    ("prompt", "chunk", "share", "last"),
    [pytest.param(5000, 2048, None, 904, id="the budget"), pytest.param(600, 256, 256, 88, id="its share")],
)
def test_a_long_prompt_runs_in_chunks(prompt, chunk, share, last):
    model = steps()
    (request,), _ = serve(alone(prompt, 1), model=model, budget=2048, share=share)
    chunks = [prefill(chunk, completes=False), prefill(chunk, before=chunk, completes=False)]
    chunks.append(prefill(last, before=2 * chunk))
    assert request.ttft_s * 1e6 == pytest.approx(sum(map(model.step_us, chunks)) + edge_us(prompt))


def test_with_shares_a_short_prompt_is_computed_beside_a_long_one():
    long, short = Ask(8000, 1), Ask(100, 1)
    workload = Workload((long, short), Arrivals(times_s=(0.0, 0.05)))
    behind, _ = serve(workload)
    beside, _ = serve(workload, share=256)
    assert [request.ask for request in behind] == [long, short]
    assert [request.ask for request in beside] == [short, long]
    assert beside[0].ttft_s < 0.3 * behind[1].ttft_s


def test_chunks_of_one_prompt_follow_each_other_through_the_stages():
    piped = steps(1, 4)
    whole = serve(alone(8192, 1), model=piped, budget=8192)[0][0].ttft_s
    chunked = serve(alone(8192, 1), model=piped, budget=1024)[0][0].ttft_s
    assert chunked < 0.7 * whole


def test_a_request_takes_a_free_place_of_a_pipeline_at_once_and_does_not_wait_for_the_batch_that_lands():
    piped, others = steps(1, 4), 8
    times_s = (0.0, *(0.5 + 0.1234 * number for number in range(others)))
    asks = (Ask(100, 400), *[Ask(100, 1)] * others)
    served, _ = serve(Workload(asks, Arrivals(times_s=times_s)), model=piped)
    alone_s = serve(alone(100, 1), model=piped)[0][0].ttft_s
    assert [request.ttft_s for request in served[:others]] == pytest.approx([alone_s] * others, rel=0.1)


def test_no_more_requests_run_than_allowed():
    asks = tuple(Ask(100, 50) for _ in range(8))
    one_by_one, _ = serve(Workload(asks, Arrivals(times_s=(0.0,) * 8)), running=1)
    together, _ = serve(Workload(asks, Arrivals(times_s=(0.0,) * 8)), running=8)
    assert max(r.finished_s for r in one_by_one) > 3 * max(r.finished_s for r in together)


def test_a_full_cache_takes_the_last_request_back_and_finishes_all():
    asks = tuple(Ask(400, 400) for _ in range(4))
    served, simulation = serve(Workload(asks, Arrivals(times_s=(0.0,) * 4)), kv_tokens=2048)
    assert simulation.preemptions > 0
    assert len(served) == 4
    assert served[0].ask is asks[0]


def test_a_request_that_can_never_fit_is_refused():
    with pytest.raises(ValueError, match="KV cache"):
        serve(alone(1000, 2000), kv_tokens=2048)


def test_a_lower_priority_number_goes_first():
    asks = (Ask(2000, 20), Ask(2000, 20, priority=1), Ask(2000, 20, priority=0))
    served, _ = serve(Workload(asks, Arrivals(times_s=(0.0, 0.001, 0.002))), running=1)
    assert [request.ask.priority for request in served] == [0, 0, 1]


def test_cached_prompt_tokens_are_not_computed_again():
    cold, warm = Ask(4000, 2), Ask(4000, 2, cached_tokens=3984)
    first = serve(Workload((cold,), Arrivals(concurrency=1)))[0][0].ttft_s
    second = serve(Workload((warm,), Arrivals(concurrency=1)))[0][0].ttft_s
    assert second < first / 2


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 30),
    stages=st.sampled_from([1, 2, 4]),
    budget=st.sampled_from([256, 2048]),
    kv_tokens=st.sampled_from([4096, 200_000]),
    closed=st.booleans(),
)
def test_every_request_is_served_once_with_all_its_tokens(seed, count, stages, budget, kv_tokens, closed):
    asks = uniform_asks(count, 1500, 300, shortest_share=0.1, seed=seed)
    arrivals = Arrivals(concurrency=7) if closed else Arrivals(times_s=poisson_times_s(count, 20, seed=seed))
    served, _ = serve(Workload(asks, arrivals), model=steps(1, stages), kv_tokens=kv_tokens, budget=budget)
    assert sorted(map(id, asks)) == sorted(id(request.ask) for request in served)
    assert all(r.sent_s < r.first_token_s <= r.finished_s for r in served)


@pytest.mark.parametrize("stages", [1, 4])
def test_pricing_alike_steps_together_changes_latencies_by_less_than_a_percent(stages, monkeypatch):
    asks = uniform_asks(60, 800, 200, shortest_share=0.5, seed=5)
    workload = Workload(asks, Arrivals(times_s=poisson_times_s(60, 15, seed=5)))
    means = []
    for jump in (0, 256):
        monkeypatch.setattr("placement.simulator.LONGEST_JUMP", jump)
        served = Simulation(steps(1, stages), 100_000, 2048, 64).run(workload)
        means.append(sum(request.finished_s - request.sent_s for request in served) / len(served))
    assert means[0] == pytest.approx(means[1], rel=0.01)


def test_a_run_of_the_first_requests_ends_with_them_under_the_load_of_those_behind():
    asks = uniform_asks(60, 500, 100, shortest_share=0.5, seed=3)
    workload = Workload(asks, Arrivals(times_s=poisson_times_s(60, 20, seed=3)))
    whole = {id(request.ask): request for request in serve(workload)[0]}
    simulation = Simulation(steps(), 200_000, 2048, 64)
    served = simulation.run(workload, first=20)
    finished = {id(request.ask) for request in served}
    assert finished >= {id(ask) for ask in asks[:20]}
    assert len(finished) < len(asks)
    assert all(whole[id(request.ask)] == request for request in served)


def test_the_same_workload_gives_the_same_run():
    workload = Workload(uniform_asks(20, 500, 100, shortest_share=0.5, seed=3), Arrivals(concurrency=5))
    assert serve(workload)[0] == serve(workload)[0]


def test_requests_with_times_are_served_at_these_times():
    times_s, asks = (0.0, 0.5, 3.0), (Ask(500, 20), Ask(1500, 40), Ask(200, 5))
    served, _ = serve(Workload(asks, Arrivals(times_s=times_s)))
    by_sending = sorted(served, key=lambda request: request.sent_s)
    assert tuple(request.sent_s for request in by_sending) == times_s
    assert tuple(request.ask for request in by_sending) == asks
    assert by_sending[2].finished_s > 3.0
