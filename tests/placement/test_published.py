"""Validation on the published rows, where the folder beside the checkout has them."""

from dataclasses import replace
from pathlib import Path

import pytest

from placement.coefficients import DEFAULT_FILE, default_coefficients, parse_coefficients
from placement.fitting.coefficient_file import fit_kernels, to_json
from placement.fitting.kernels import read_rows
from placement.fitting.residual import held_out, usable_runs
from placement.published import parse_rows, predict, read_published, reading_of
from placement.validation import mean_absolute_percent, validate_run

MEASUREMENTS = Path(__file__).parents[2].parent / "shared" / "measurements"
with_tables = pytest.mark.skipif(not MEASUREMENTS.is_dir(), reason="the raw tables are not in the repository")
ROW = {
    "id": "x",
    "model": "meta-llama/Llama-3.1-70B",
    "system": "h100_sxm",
    "precision": "fp8",
    "backend": "vllm ?",
    "tp": "4",
    "pp": "1",
    "isl": "1024",
    "osl": "128",
    "concurrency": "4",
    "ttft_ms": "80",
    "tpot_ms": "12",
}


def test_a_row_of_an_unseen_tp_is_predicted_between_its_neighbours():
    def token_ms(tensor):
        (run,) = parse_rows([{**ROW, "tp": str(tensor)}])
        return predict(run, default_coefficients(), rounds=2).tpot_ms

    assert token_ms(8) < token_ms(4) < token_ms(2)


def test_a_row_without_latencies_is_predicted_without_an_error():
    (run,) = parse_rows([{**ROW, "ttft_ms": "", "tpot_ms": ""}])
    row = validate_run(run, default_coefficients())
    assert row.tpot_ms > 0
    assert row.tpot_error is None


def test_a_row_that_cannot_run_is_refused_with_the_reason():
    (run,) = parse_rows([{**ROW, "precision": "", "tp": "1"}])
    assert "the cache holds 0 tokens" in (validate_run(run, default_coefficients()).refused or "")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"tp": "3"}, "tensor_parallel_size 3: it does not divide the model's 64 attention heads"),
        ({"tp": "16"}, "TP=16 would leave a node of 8 GPUs"),
        ({"tp": "1", "pp": "90"}, "pipeline_parallel_size 90: the model has 80 layers"),
        ({"osl": "200000"}, "the model's context is 131072"),
        ({"concurrency": "10001"}, "concurrency: 10001: at most 10000 clients"),
        ({"system": "a10"}, "gpu: 'a10' is not in the catalogue"),
        ({"model": ""}, "model: ''"),
    ],
)
def test_a_row_of_an_impossible_plan_is_refused_with_the_reason(columns, reason):
    (run,) = parse_rows([{**ROW, **columns}])
    row = validate_run(run, default_coefficients())
    assert reason in (row.refused or "")
    assert (row.tpot_ms, row.fitted) == (0.0, False)


def test_stages_of_a_row_may_fill_several_nodes():
    (run,) = parse_rows([{**ROW, "tp": "8", "pp": "2"}])
    assert predict(run, default_coefficients(), rounds=2).tpot_ms > 0


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("tp", "two", "'two' is not a number"),
        ("tp", None, "'' is not a number"),
        ("tp", "0", "'0' is not a positive integer"),
        ("pp", "1.5", "'1.5' is not a positive integer"),
        ("isl", "-1", "'-1' is negative or not finite"),
        ("osl", "inf", "'inf' is negative or not finite"),
        ("concurrency", "0", "'0' is not a positive integer"),
        ("ttft_ms", "nan", "'nan' is negative or not finite"),
    ],
)
def test_a_figure_that_can_not_be_is_named_with_its_line_and_column(column, value, reason):
    with pytest.raises(ValueError, match=f"line 2: {column}: {reason}"):
        parse_rows([{**ROW, column: value}])


@with_tables
def test_fitted_are_exactly_the_rows_that_were_and_no_others_measured_like_them():
    runs = read_published(MEASUREMENTS / "vllm_hopper_published.csv")
    fitted = [run for run in runs if run.fingerprint in default_coefficients().fitted_runs]
    assert len(fitted) == len(default_coefficients().fitted_runs) == 86
    assert not any(map(held_out, fitted))
    assert validate_run(fitted[0], default_coefficients()).fitted
    again = replace(fitted[0], tpot_ms=1.01 * fitted[0].tpot_ms)
    assert not validate_run(again, default_coefficients()).fitted


@pytest.mark.parametrize("columns", [{}, {"pp": "2"}, {"id": "2026_04_mine"}])
def test_rows_of_somebody_else_are_held_out(columns):
    (run,) = parse_rows([{**ROW, **columns}])
    row = validate_run(run, default_coefficients())
    assert (row.refused, row.fitted) == (None, False)


def test_the_coefficients_file_survives_a_round_trip():
    coefficients = default_coefficients()
    assert parse_coefficients(to_json(coefficients)) == coefficients


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("m,n,latency_us\n1,2,3\n", "line 2: k is missing"),
        ("m,n,k,latency_us\n1,2,3\n", "line 2: latency_us is missing"),
        ("m,n,k,latency_us\n1,2,x,3\n", "line 2: k: 'x' is not a positive number"),
        ("m,n,k,latency_us\n1,2,3,0\n", "line 2: latency_us: '0' is not a positive number"),
        ("m,n,k,latency_us\n", "no rows"),
    ],
)
def test_a_kernel_table_that_can_not_be_fitted_is_refused_by_column(tmp_path, table, reason):
    file = tmp_path / "table.csv"
    file.write_text(table)
    with pytest.raises(ValueError, match=f"table.csv: {reason}"):
        read_rows(file, (), ("m", "n", "k", "latency_us"))


def test_a_fit_without_a_row_to_fit_to_is_refused():
    runs = parse_rows([{**ROW, "tpot_ms": ""}, {**ROW, "model": "meta-llama/Llama-3.1-8B"}])
    with pytest.raises(ValueError, match="none of 2 published runs"):
        usable_runs(default_coefficients(), runs)
    (impossible,) = parse_rows([{**ROW, "tp": "3"}])
    with pytest.raises(ValueError, match="x: tensor_parallel_size 3: it does not divide"):
        usable_runs(default_coefficients(), [impossible])


@with_tables
def test_the_kernel_fit_repeats_the_file_in_the_repository():
    fitted, stored = fit_kernels(MEASUREMENTS), parse_coefficients(DEFAULT_FILE.read_text())
    assert (fitted.gemm, fitted.collectives) == (stored.gemm, stored.collectives)
    assert fitted.decode_attention == stored.decode_attention
    assert fitted.prefill_attention == stored.prefill_attention


@with_tables
def test_at_least_a_third_of_the_published_rows_is_held_out():
    runs = read_published(MEASUREMENTS / "vllm_hopper_published.csv")
    assert sum(map(held_out, runs)) >= len(runs) / 3


@with_tables
def test_held_out_rows_are_within_the_bars():
    runs = read_published(MEASUREMENTS / "vllm_hopper_published.csv")
    chosen = [run for run in runs if held_out(run)]
    rows = [validate_run(run, default_coefficients()) for run in chosen]
    tpot = mean_absolute_percent([row.tpot_error for row in rows])
    ttft = mean_absolute_percent([row.ttft_error for row in rows])
    assert tpot is not None
    assert tpot <= 6
    assert ttft is not None
    assert ttft <= 20


@with_tables
def test_every_family_of_rows_has_a_reading():
    runs = read_published(MEASUREMENTS / "vllm_hopper_published.csv")
    assert len({reading_of(run).name for run in runs}) == 5
