"""Validation on the published rows, where the folder beside the checkout has them."""

from pathlib import Path

import pytest

from placement.coefficients import DEFAULT_FILE, default_coefficients, parse_coefficients
from placement.fitting.coefficient_file import fit_kernels, to_json
from placement.fitting.residual import held_out
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
    assert "KV cache" in (validate_run(run, default_coefficients()).refused or "")


def test_a_column_that_is_no_number_is_named():
    with pytest.raises(ValueError, match="line 2: tp"):
        parse_rows([{**ROW, "tp": "two"}])


def test_the_coefficients_file_survives_a_round_trip():
    coefficients = default_coefficients()
    assert parse_coefficients(to_json(coefficients)) == coefficients


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
