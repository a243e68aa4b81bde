"""The step-time model: never below the roofline, and shaped as the hardware is."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.coefficients import default_coefficients
from placement.hardware import Cluster, find_gpu
from placement.models import bytes_per_value, find_model
from placement.plans import ParallelPlan
from placement.step_time import Batch, StepModel, decode, prefill

COEFFICIENTS = default_coefficients()
LLAMA_70B = find_model("llama70b")


def model(tensor=2, stages=1, gpu="h100", name="llama70b", **plan):
    return StepModel(
        find_model(name), Cluster(find_gpu(gpu), 4), ParallelPlan(tensor, stages, **plan), COEFFICIENTS
    )


def roofline_us(steps, batch):
    """Least time that the hardware allows for all layers and the logits: the operations of each part or what
    it reads and writes, at the peak, without latency. From the shapes alone."""
    model, gpu, plan, tokens = steps.model, steps.gpu, steps.plan, batch.tokens
    tp, weights, cache = (
        plan.tensor_parallel,
        bytes_per_value(plan.weight_dtype),
        bytes_per_value(plan.kv_dtype),
    )
    heads, kv_heads, ffn = max(1, model.heads // tp), max(1, model.kv_heads // tp), max(1, model.ffn // tp)

    def bound_us(operations, moved, dtype):
        return max(operations / gpu.tflops(dtype) / 1e6, moved / gpu.memory_tb_per_s / 1e6)

    def product_us(rows, outputs, inputs, dtype, width):
        moved = width * (outputs * inputs + rows * inputs) + 2 * rows * outputs
        return bound_us(2 * rows * outputs * inputs, moved, dtype)

    def attention_us(pairs, queries, earlier, fresh):
        keys_and_values, query = 2 * kv_heads * model.head_dim, 2 * heads * model.head_dim
        moved = earlier * keys_and_values * cache + 2 * (fresh * keys_and_values + queries * query)
        return bound_us(4 * pairs * heads * model.head_dim, moved, "bfloat16")

    share = model.experts_per_token / model.experts
    dtype = plan.weight_dtype
    touched = max(1, round(model.experts * (1 - (1 - share) ** tokens)))
    rows = tokens * model.experts_per_token / touched
    layer = product_us(tokens, (heads + 2 * kv_heads) * model.head_dim, model.hidden, dtype, weights)
    layer += product_us(tokens, model.hidden, heads * model.head_dim, dtype, weights)
    layer += product_us(rows, 2 * ffn * touched, model.hidden, dtype, weights)
    layer += product_us(rows, model.hidden * touched, ffn, dtype, weights)
    decoded, prompts = batch.decode_context_tokens, batch.prefill_tokens
    layer += attention_us(decoded, batch.decode_sequences, decoded, 0)
    layer += attention_us(batch.prefill_pairs, prompts, batch.prefill_context_tokens - prompts, prompts)
    if tp > 1:
        layer += 2 * 2 * tokens * model.hidden * (tp - 1) / tp / gpu.peer_gb_per_s / 1e3
    head = product_us(batch.sampled, max(1, model.vocab // tp), model.hidden, "bfloat16", 2)
    return model.layers * layer + (head if batch.sampled else 0)


batches = st.builds(
    lambda chunk, prompts, before, running, context: Batch(
        prefill_tokens=chunk * prompts,
        prefill_sequences=prompts,
        prefill_pairs=prompts * chunk * (before + (chunk + 1) / 2),
        prefill_context_tokens=prompts * (before + chunk),
        decode_sequences=running,
        decode_context_tokens=running * context,
        sampled=running + prompts,
    ),
    chunk=st.integers(1, 16384),
    prompts=st.integers(0, 8),
    before=st.integers(0, 100_000),
    running=st.integers(1, 1024),
    context=st.integers(1, 130_000),
)


@settings(max_examples=300, deadline=None)
@given(
    batch=batches,
    name=st.sampled_from(["llama70b", "llama8b", "llama405b", "qwen32b", "mixtral"]),
    gpu=st.sampled_from(["h100", "h200", "a100", "b200", "generic"]),
    tensor=st.sampled_from([1, 2, 4, 8]),
    stages=st.sampled_from([1, 2, 4]),
    weights=st.sampled_from(["bfloat16", "fp8"]),
    cache=st.sampled_from(["bfloat16", "fp8"]),
    split=st.sampled_from([None, 1024]),
)
def test_no_step_is_faster_than_the_roofline(batch, name, gpu, tensor, stages, weights, cache, split):
    steps = model(
        tensor,
        stages,
        gpu,
        name,
        weight_dtype=weights,
        kv_dtype=cache,
        sequence_parallel_min_tokens=split,
    )
    assert steps.step_us(batch) >= roofline_us(steps, batch)


@given(st.integers(1, 512), st.integers(1, 30_000))
def test_more_context_never_makes_a_decode_step_faster(sequences, context):
    steps = model()
    assert steps.step_us(decode(sequences, context + 1000)) > steps.step_us(decode(sequences, context))


def test_decode_at_batch_one_is_bound_by_the_weights():
    # 35.3 GB of bf16 weights a GPU over 3.35 TB/s is 21 ms with PP=1, TP=4.
    steps = model(4)
    assert steps.step_us(decode(1, 1024)) == pytest.approx(roofline_us(steps, decode(1, 1024)), rel=0.8)


def test_stages_share_the_layers_and_the_way_through_them_costs_hops():
    whole, piped = model(2), model(2, 4)
    batch = decode(8, 1024)
    assert max(piped.stage_times_us(batch)) < whole.step_us(batch) / 3
    assert piped.step_us(batch) > whole.step_us(batch)


def test_a_hop_leaves_the_node_where_no_other_group_fits_into_it():
    plan = ParallelPlan(4, 2)
    within, between = (
        StepModel(LLAMA_70B, Cluster(find_gpu("h100"), nodes=2, gpus_per_node=gpus), plan, COEFFICIENTS)
        for gpus in (8, 6)
    )
    batch = decode(8, 1000)
    # The network's latency is 12 us more.
    assert between.stage_times_us(batch)[0] - within.stage_times_us(batch)[0] > 10


def test_no_larger_batch_is_captured_than_can_run():
    few, many = (model(1, name="llama8b", max_running=running) for running in (64, 256))
    eager_us = COEFFICIENTS.residual.layer_eager_us
    assert many.layer_us(decode(200, 100)) < eager_us
    assert few.layer_us(decode(200, 100)) == eager_us
    assert few.layer_us(decode(128, 100)) < eager_us


def test_data_center_blackwell_captures_larger_batches():
    tokens = {gpu: model(1, gpu=gpu, name="llama8b", max_running=1024) for gpu in ("h100", "b200")}
    eager_us = COEFFICIENTS.residual.layer_eager_us
    assert tokens["h100"].layer_us(decode(600, 100)) >= eager_us
    assert tokens["b200"].layer_us(decode(600, 100)) < eager_us <= tokens["b200"].layer_us(decode(1100, 100))


def test_more_tensor_ranks_make_a_token_faster_but_not_in_proportion():
    two, eight = model(2).step_us(decode(1, 1024)), model(8).step_us(decode(1, 1024))
    assert two / 4 < eight < two / 2


def test_a_prompt_in_small_chunks_takes_longer_than_in_one():
    steps = model()
    chunks = [prefill(256, before=before, completes=before == 3840) for before in range(0, 4096, 256)]
    assert sum(map(steps.step_us, chunks)) > steps.step_us(prefill(4096))


def test_sequence_parallelism_changes_nothing_below_its_threshold():
    plain, split = model(2), model(2, sequence_parallel_min_tokens=2048)
    assert plain.step_us(prefill(1024)) == split.step_us(prefill(1024))
    assert plain.step_us(prefill(4096)) != split.step_us(prefill(4096))


def test_fp8_weights_halve_what_a_small_batch_waits_for():
    bf16, fp8 = model(2), model(2, weight_dtype="fp8")
    assert 1.3 < bf16.step_us(decode(1, 1024)) / fp8.step_us(decode(1, 1024)) < 2.0


def test_what_was_never_measured_says_so():
    assert not ParallelPlan(8).unmeasured
    assert "no published" in ParallelPlan(2, 4).unmeasured[0]
    assert "sequence" in replace(ParallelPlan(2), sequence_parallel_min_tokens=1024).unmeasured[0]
