"""The planner: every plan has figures or a reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.claims import check_claims
from placement.coefficients import default_coefficients
from placement.hardware import parse_cluster
from placement.memory import plan_memory
from placement.models import find_model
from placement.planner import (
    cluster_problem,
    evaluate,
    latency_at,
    pareto_front,
    plan_cluster,
    possible_plans,
    replicas_that_fit,
)
from placement.plans import ParallelPlan
from placement.serving import Slo, parse_slo
from placement.step_time import StepModel
from placement.throughput import offline_tokens_per_s, published_throughput
from placement.workload import parse_workload

COEFFICIENTS = default_coefficients()
PROMISES = "ttft_p50=500,ttft_p99=1000,tpot_p50=50,tpot_p99=100"


# What one node takes is priced steps and little else: `python -m benchmarks planner` has the seconds.
MOST_PRICED_STEPS = 200_000


@pytest.fixture(scope="module")
def one_node():
    """The plans, and how many steps were priced for them."""
    priced = 0
    stage_times_us = StepModel.stage_times_us

    def counted(steps, batch):
        nonlocal priced
        priced += 1
        return stage_times_us(steps, batch)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StepModel, "stage_times_us", counted)
        planned = plan_cluster(
            find_model("llama70b"),
            parse_cluster("8xh100"),
            parse_workload("1024/256@8"),
            parse_slo(PROMISES),
            COEFFICIENTS,
        )
    return planned, priced


def test_one_node_is_planned_with_a_bounded_number_of_priced_steps(one_node):
    assert 0 < one_node[1] <= MOST_PRICED_STEPS


def test_every_possible_plan_is_a_candidate_or_a_reject_with_a_reason(one_node):
    planned, _ = one_node
    possible = list(possible_plans(find_model("llama70b"), parse_cluster("8xh100"), 0.85))
    assert len(planned.candidates) + len(planned.rejects) == len(possible)
    assert all(reject.reason for reject in planned.rejects)


def test_the_plan_that_was_asked_for_is_among_the_candidates_and_is_not_the_best(one_node):
    labels = [candidate.plan.label() for candidate in one_node[0].candidates]
    small = "TP2 x PP4 x DP1 bf16 kv:bf16 chunk 2048 of 256 a prompt"
    assert 0 < labels.index(small) < labels.index("TP2 x PP4 x DP1 bf16 kv:bf16 chunk 512")


def test_a_pipeline_with_large_chunks_is_rejected_for_what_they_do_to_everyone(one_node):
    reasons = {reject.plan.label(): reject.reason for reject in one_node[0].rejects}
    assert "TPOT: carries 4.0 req/s" in reasons["TP2 x PP4 x DP1 bf16 kv:bf16 chunk 2048"]


def test_the_fewest_replicas_that_carry_a_rate_keep_the_tpot_of_each():
    plan, workload, slo = (
        ParallelPlan(2, 4, 4, max_batched_tokens=2048),
        parse_workload("1024/256@8"),
        Slo(tpot_p50_ms=50),
    )
    found = evaluate(find_model("llama70b"), parse_cluster("4x8xh100"), plan, workload, slo, COEFFICIENTS)
    fewest = found.replicas_for_rate
    assert fewest == 2
    for replicas, kept in ((fewest, True), (fewest - 1, False)):
        some = evaluate(
            find_model("llama70b"),
            parse_cluster("4x8xh100"),
            replace(plan, replicas=replicas),
            workload,
            slo,
            COEFFICIENTS,
        )
        assert getattr(some, "keeps_promises", False) is kept


def test_bf16_on_one_gpu_is_rejected_for_memory(one_node):
    reasons = {reject.plan.label(): reject.reason for reject in one_node[0].rejects}
    assert "memory" in reasons["TP1 x PP1 x DP8 bf16 kv:bf16 chunk 2048"]


def test_promise_keepers_come_first_by_goodput(one_node):
    candidates = one_node[0].candidates
    kept = [candidate.keeps_promises for candidate in candidates]
    assert kept == sorted(kept, reverse=True)
    goodput = [candidate.goodput_per_gpu for candidate in candidates if candidate.keeps_promises]
    assert goodput == sorted(goodput, reverse=True)


def test_a_grid_without_seats_is_no_candidate_however_many_gpus_there_are():
    planned = plan_cluster(
        find_model("llama70b"), parse_cluster("3x6xh100"), parse_workload("512/64"), Slo(), COEFFICIENTS
    )
    grids = {(one.plan.tensor_parallel, one.plan.pipeline_parallel) for one in planned.candidates}
    assert (4, 2) in grids
    # Three nodes of six have three groups of four.
    assert (4, 4) not in grids


def test_more_clients_than_are_simulated_otherwise_wait_as_long_as_they_would():
    steps = StepModel(find_model("llama8b"), parse_cluster("1xh100"), ParallelPlan(), COEFFICIENTS)
    memory = plan_memory(steps.model, steps.gpu, steps.plan)
    few, many = (
        latency_at(steps, memory, parse_workload(f"128/16@{clients}c"), 0.0) for clients in (800, 1600)
    )
    # Those beyond what runs wait for a turn: twice as many, twice as long.
    assert many.ttft_p50_ms > 1.7 * few.ttft_p50_ms


def test_nothing_on_the_pareto_front_is_beaten_in_both(one_node):
    candidates = one_node[0].candidates
    for chosen in pareto_front(candidates):
        assert not any(
            other.goodput_per_gpu > chosen.goodput_per_gpu
            and other.latency.tpot_p50_ms < chosen.latency.tpot_p50_ms
            for other in candidates
        )


def test_a_rate_that_no_plan_carries_rejects_all_with_what_they_carry():
    planned = plan_cluster(
        find_model("llama70b"), parse_cluster("8xh100"), parse_workload("8192/1024@500"), Slo(), COEFFICIENTS
    )
    assert not planned.candidates
    assert any("500" in reject.reason for reject in planned.rejects)


@given(
    nodes=st.integers(1, 64),
    per_node=st.sampled_from([1, 2, 4, 8]),
    tensor=st.sampled_from([1, 2, 4, 8]),
    stages=st.sampled_from([1, 2, 4, 8, 16]),
)
def test_replicas_never_need_more_gpus_than_there_are(nodes, per_node, tensor, stages):
    cluster = parse_cluster(f"{nodes}x{per_node}xh100")
    assert replicas_that_fit(cluster, tensor, stages) * tensor * stages <= cluster.gpus


@pytest.mark.parametrize("text", ["", "1024", "0/5@1", "1024/256@0", "1024/256@1.5c", "a/b@1"])
def test_a_workload_that_cannot_be_is_refused(text):
    with pytest.raises(ValueError, match="workload"):
        parse_workload(text)


@pytest.mark.parametrize("text", ["p50=1", "ttft_p50", "ttft_p50=-1", "ttft_p50=x"])
def test_a_promise_that_cannot_be_is_refused(text):
    with pytest.raises(ValueError, match="slo"):
        parse_slo(text)


def test_full_load_of_another_engine_is_within_a_fifth_on_average():
    errors = [
        abs(offline_tokens_per_s(row, COEFFICIENTS) / row.tokens_per_s - 1) for row in published_throughput()
    ]
    assert sum(errors) / len(errors) < 0.2


def test_every_claim_has_its_arithmetic_its_verdict_and_its_correction():
    claims = check_claims(COEFFICIENTS)
    assert len(claims) == 13
    assert {claim.verdict for claim in claims} <= {"holds", "holds within limits", "refuted", "not known"}
    assert all(claim.arithmetic and claim.correction for claim in claims)
    refuted = {claim.claim.split(" ")[0] for claim in claims if claim.verdict == "refuted"}
    assert {"26.25", "DP", "NVLink", "PP=4"} <= refuted


def test_whether_sequence_parallelism_pays_hangs_on_the_kernel_that_it_replaces():
    (claim,) = (one for one in check_claims(COEFFICIENTS) if one.claim.startswith("sequence parallelism"))
    assert claim.verdict == "not known"
    assert "2048: -0.7 %" in claim.arithmetic
    assert "NCCL's -1.7 %, vLLM's, eager +1.1 %" in claim.arithmetic


@pytest.mark.parametrize(
    ("model", "gpu", "weights", "caches"),
    [
        ("llama70b", "h100", {"bfloat16", "fp8"}, {"bfloat16", "fp8"}),
        ("nvidia/Llama-3.1-70B-Instruct-FP8", "h100", {"fp8"}, {"bfloat16", "fp8"}),
        ("llama70b", "a100", {"bfloat16", "fp8"}, {"bfloat16"}),
    ],
)
def test_plans_hold_weights_as_stored_or_smaller_and_a_cache_that_the_gpu_computes(
    model, gpu, weights, caches
):
    plans = list(possible_plans(find_model(model), parse_cluster(f"8x{gpu}"), 0.85))
    assert {plan.weight_dtype for plan in plans} == weights
    assert {plan.kv_dtype for plan in plans} == caches


def test_weights_in_a_format_without_a_price_are_refused():
    model = replace(find_model("llama70b"), weight_dtype="awq")
    with pytest.raises(ValueError, match="weights as awq: only bfloat16 and fp8 are priced"):
        list(possible_plans(model, parse_cluster("8xh100"), 0.85))


@pytest.mark.parametrize(
    ("tensor", "notes"), [(1, ()), (8, ()), (16, ("TP=16: no published H100 measurement",))]
)
def test_a_tp_that_nobody_measured_is_marked(tensor, notes):
    assert ParallelPlan(tensor).unmeasured == notes


@pytest.mark.parametrize(
    ("grid", "replicas", "one_node", "fits"),
    [
        ((2, 3), 4, False, True),
        ((2, 3), 4, True, False),
        ((2, 3), 3, True, True),
        ((2, 3), 5, False, False),
        ((8, 3), 1, False, True),
    ],
)
def test_under_pack_replicas_share_what_is_left_of_nodes(grid, replicas, one_node, fits):
    plan = ParallelPlan(*grid, replicas, one_node=one_node)
    problem = cluster_problem(parse_cluster("3x8xh100"), plan)
    assert (problem is None) is fits


def test_short_outputs_are_not_rejected_for_their_own_prompts():
    plan = ParallelPlan(4, 1, 2, max_batched_tokens=2048)
    workload, slo = parse_workload("7900/8@0.1"), Slo(tpot_p50_ms=50)
    found = evaluate(find_model("llama70b"), parse_cluster("8xh100"), plan, workload, slo, COEFFICIENTS)
    assert found.keeps_promises
    assert found.latency.tpot_p50_ms == pytest.approx(found.alone_ms, rel=0.02)
