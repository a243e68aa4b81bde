"""The command line, as a user meets it."""

import json

import pytest

from placement.cli import main

CONFIG = """
http_options: {host: 127.0.0.1}
applications:
  - name: llama
    import_path: app.serving:build
    args:
      model: {name: llama, source: meta-llama/Llama-3.3-70B-Instruct}
      parallel:
        pipeline_parallel_size: 4
        tensor_parallel_size: 2
        bundles: [%s]
%s
      engine: {max_model_len: %d, max_num_seqs: 64}
      open_without_keys: true
"""
BUNDLES = ", ".join(["{CPU: 1, GPU: 1}"] * 8)


def config(tmp_path, *, extra="", tokens=8192):
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG % (BUNDLES, extra, tokens))
    return str(file)


def test_plan_prints_ranks_rejects_and_error_band(capsys, tmp_path):
    out, picture = tmp_path / "plans.json", tmp_path / "pareto.svg"
    arguments = ["plan", "--model", "llama8b", "--cluster", "2xh100", "--workload", "512/64@4"]
    assert main([*arguments, "--json", str(out), "--plot", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "TP2 x PP1" in text
    assert "no published H100 measurement" in text
    candidates = json.loads(out.read_text())["candidates"]
    piped = [c for c in candidates if c["plan"]["pipeline_parallel"] > 1]
    assert piped
    assert all(c["unmeasured"] and c["mean_error_percent"] is None for c in piped)
    assert picture.read_text().startswith("<svg")


def test_plan_without_a_plan_that_keeps_the_promises_exits_with_one(capsys):
    arguments = ["plan", "--model", "llama70b", "--cluster", "1xh100", "--workload", "512/64@4"]
    assert main(arguments) == 1
    assert "memory" in capsys.readouterr().out


def test_bad_input_is_one_line_and_status_two(capsys):
    assert main(["plan", "--model", "llama8b", "--cluster", "9xh100", "--workload", "512/64@4"]) == 2
    assert "9xh100" in capsys.readouterr().err


def test_check_proves_the_starting_plan_and_warns_of_its_imbalance(capsys, tmp_path):
    assert main(["check", config(tmp_path), "--workload", "1024/256@4"]) == 0
    text = capsys.readouterr().out
    assert "possible" in text
    assert "layer_partition: [19, 21, 21, 19]" in text
    assert "PP>1: no published H100 measurement" in text


def test_check_refuses_a_request_that_no_cache_holds(capsys, tmp_path):
    assert main(["check", config(tmp_path, tokens=2_000_000)]) == 1
    assert "needs 2000000" in capsys.readouterr().out


def test_check_refuses_replicas_that_would_share_gpus(capsys, tmp_path):
    file = config(tmp_path, extra="      replicas: {min: 1, max: 2}")
    assert main(["check", file]) == 1
    assert "needs 16 GPUs, the cluster has 8" in capsys.readouterr().out


def test_validate_without_a_file_checks_the_full_load_rows(capsys):
    assert main(["validate"]) == 0
    assert "MLPerf" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["plan", "check", "validate", "claims", "fit"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out
