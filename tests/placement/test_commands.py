"""The command line, as a user meets it."""

import json
import re
from pathlib import Path

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


def test_plan_says_at_which_load_its_latencies_are_and_who_is_fastest_alone(capsys, tmp_path):
    out = tmp_path / "plans.json"
    plan = ["plan", "--model", "llama8b", "--cluster", "4xh100", "--top", "1", "--workload"]
    loads = {"512/64@4": "at 4 req/s", "512/64": "at 0.9 of a plan's req/s", "512/64@8c": "at 8 clients"}
    for workload, load in loads.items():
        assert main([*plan, workload, "--json", str(out)]) == 0
        said = capsys.readouterr().out
        assert f"latencies with all replicas {load}:" in said
        candidates = json.loads(out.read_text())["candidates"]
        least = min(candidate["alone_ms"] for candidate in candidates)
        first = said.split("Fastest for one user alone:")[1].splitlines()[3]
        assert f"{least:.1f}" in first.split()


def test_an_error_is_stated_below_where_runs_were_published_and_nowhere_else(capsys):
    arguments = ["plan", "--model", "llama8b", "--workload", "512/64@4", "--top", "1", "--cluster"]
    assert main([*arguments, "1xh100"]) == 0
    table, _, below = capsys.readouterr().out.partition("Rejected:")
    assert "%" not in table
    assert re.search(r"\(mean TTFT and TPOT of closed loops\): TPOT \d+\.\d %, TTFT \d+\.\d %", below)
    assert main([*arguments, "1xa100"]) == 0
    said = capsys.readouterr().out
    assert "Error of these figures: not known." in said
    assert "%" not in said


def test_plan_without_a_plan_that_keeps_the_promises_exits_with_one(capsys):
    arguments = ["plan", "--model", "llama70b", "--cluster", "1xh100", "--workload", "512/64@4"]
    assert main(arguments) == 1
    assert "memory" in capsys.readouterr().out


def test_bad_input_is_one_line_and_status_two(capsys):
    assert main(["plan", "--model", "llama8b", "--cluster", "9xh100", "--workload", "512/64@4"]) == 2
    assert "9xh100" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--memory-utilization", "5"], "--memory-utilization: 5 is not above 0 and at most 0.95"),
        (["--memory-utilization", "nan"], "--memory-utilization: nan"),
        (["--network-gb-per-s", "nan"], "--network-gb-per-s: nan is not positive and finite"),
        (["--network-gb-per-s", "inf"], "--network-gb-per-s: inf"),
        (["--top", "-1"], "--top: -1 is not positive"),
        (["--slo", "tpot_p50=nan"], "slo: 'tpot_p50=nan' is not positive and finite"),
        (["--workload", "512/64@1000000c"], "workload: '512/64@1000000c': at most 10000 clients"),
    ],
)
def test_a_plan_with_an_impossible_number_is_refused(capsys, arguments, said):
    plan = ["plan", "--model", "llama8b", "--cluster", "1xh100", "--workload", "512/64@4"]
    assert main([*plan, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_check_proves_the_starting_plan(capsys, tmp_path):
    assert main(["check", config(tmp_path), "--workload", "1024/256@4"]) == 0
    text = capsys.readouterr().out
    assert "possible" in text
    assert "warning" not in text
    assert "PP>1: no published H100 measurement" in text
    assert "Error of these figures: not known." in text


def test_check_refuses_a_request_beyond_the_models_context(capsys, tmp_path):
    assert main(["check", config(tmp_path, tokens=2_000_000)]) == 1
    assert "a request of 2000000 tokens, but the model's context is 131072" in capsys.readouterr().out


def test_check_holds_the_plan_against_the_files_own_hardware_and_promises(capsys, tmp_path):
    promises = "{prompt_tokens: 512, output_tokens: 64, requests_per_s: 100}"
    extra = f"      hardware: 2x8xh200\n      promises: {promises}"
    file = config(tmp_path, extra=extra)
    assert main(["check", file]) == 0
    text = capsys.readouterr().out
    assert "h200: no kernel table" in text
    assert re.search(r"carries \d+\.\d requests/s \(.+\), 100 asked", text)
    assert main(["check", file, "--hardware", "4xh100"]) == 1


def test_check_says_at_which_rate_its_latencies_are(capsys, tmp_path):
    file = config(tmp_path)
    assert main(["check", file, "--workload", "1024/256@2"]) == 0
    assert "requests/s at most; at 2.0: TTFT" in capsys.readouterr().out
    assert main(["check", file, "--workload", "1024/256@8c"]) == 0
    assert "with the workload's clients: TTFT" in capsys.readouterr().out


def test_check_warns_of_a_partition_that_costs_cache_and_says_a_better_one(capsys, tmp_path):
    file = Path(config(tmp_path))
    uneven = "pipeline_parallel_size: 4\n        layer_partition: [19, 21, 21, 19]"
    file.write_text(file.read_text().replace("pipeline_parallel_size: 4", uneven))
    assert main(["check", str(file), "--workload", "1024/256@1"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"memory in use differs by 7\.\d % between stages, 5 % promised", said)
    assert re.search(r"layer_partition: \[20, 20, 20, 20\] by 1\.\d %, and the cache holds", said)


def test_check_says_that_the_shipped_70b_keeps_its_promises(capsys):
    """The figures of serve_configs/llama70b.yaml, README and docs/placement.md."""
    assert main(["check", "serve_configs/llama70b.yaml"]) == 0
    text = capsys.readouterr().out
    assert "warning" not in text
    assert "10.3 requests/s at most; at 8.0: TTFT P50/P99 97/227 ms, TPOT P50/P99 39.1/40.9 ms" in text


def test_check_warns_where_chunks_of_a_pipeline_are_large(capsys, tmp_path):
    shipped = Path("serve_configs/llama70b.yaml").read_text()
    changed = tmp_path / "whole.yaml"
    changed.write_text(shipped.replace("long_prefill_token_threshold: 256", ""))
    assert main(["check", str(changed)]) == 0
    text = capsys.readouterr().out
    assert "4.2 requests/s at most" in text
    assert "carries 3.8 requests/s (TPOT), 8 asked" in text


def test_check_has_no_figures_for_requests_that_are_longer_than_is_served(capsys, tmp_path):
    assert main(["check", config(tmp_path, tokens=1000), "--workload", "1024/256"]) == 0
    text = capsys.readouterr().out
    assert "have 1024 + 256 tokens, the longest that is served 1000: no figures" in text
    assert "KV cache" in text
    assert "TTFT" not in text.split("*")[0]


@pytest.mark.parametrize(
    ("source", "engine", "said"),
    [
        ("somebody/some-model", "", "the model is not catalogued: nothing is predicted"),
        ("meta-llama/Llama-3.3-70B-Instruct", "quantization: awq,", "weights as awq: nothing is predicted"),
        ("meta-llama/Llama-3.3-70B-Instruct", "dtype: float32,", "float32 weights: no kernel table"),
    ],
)
def test_check_says_what_it_can_not_predict(capsys, tmp_path, source, engine, said):
    file = Path(config(tmp_path))
    text = file.read_text().replace("meta-llama/Llama-3.3-70B-Instruct", source)
    file.write_text(text.replace("engine: {", f"engine: {{{engine} "))
    assert main(["check", str(file)]) == 0
    assert said in capsys.readouterr().out


def together(tmp_path, *changes):
    """A file with an application for each of these changes of the one in CONFIG."""
    file = Path(config(tmp_path))
    head, one = file.read_text().split("applications:\n")
    parts = []
    for number, change in enumerate(changes):
        part = one.replace("name: llama\n    import", f"name: llama{number}\n    import")
        for old, new in change.items():
            assert old in part
            part = part.replace(old, new)
        parts.append(part)
    file.write_text(f"{head}applications:\n{''.join(parts)}")
    return str(file)


def grid(stages, tensor, strategy="STRICT_PACK"):
    return {
        "pipeline_parallel_size: 4": f"pipeline_parallel_size: {stages}",
        "tensor_parallel_size: 2": f"tensor_parallel_size: {tensor}\n        strategy: {strategy}",
        BUNDLES: ", ".join(["{CPU: 1, GPU: 1}"] * stages * tensor),
    }


def test_check_seats_the_applications_of_a_file_one_after_the_other(capsys, tmp_path):
    file, out = together(tmp_path, {}, {}), tmp_path / "verdicts.json"
    assert main(["check", file, "--json", str(out)]) == 1
    verdicts = json.loads(out.read_text())
    assert verdicts["llama0"]["refusals"] == []
    (refusal,) = verdicts["llama1"]["refusals"]
    assert refusal.startswith("beside the applications before it: STRICT_PACK, all on one node: replica 1")
    assert "Free GPUs by node - node 1: 0" in refusal
    assert main(["check", file, "--hardware", "2x8xh100"]) == 0


def test_applications_on_gpus_of_different_types_take_none_from_each_other(tmp_path):
    on = [{"engine:": f"hardware: {hardware}\n      engine:"} for hardware in ("8xh100", "8xh200", "8xh200")]
    assert main(["check", together(tmp_path, *on[:2])]) == 0
    assert main(["check", together(tmp_path, *on)]) == 1


def test_gpus_that_are_left_on_several_nodes_are_no_room_for_what_shares_one(capsys, tmp_path):
    file, out = together(tmp_path, grid(3, 2), grid(3, 2), grid(1, 4)), tmp_path / "verdicts.json"
    two_nodes = ["--hardware", "2x8xh100", "--json", str(out)]
    assert main(["check", file, *two_nodes]) == 1
    refused = [bool(verdict["refusals"]) for verdict in json.loads(out.read_text()).values()]
    assert refused == [False, False, True]
    assert main(["check", together(tmp_path, grid(3, 2), grid(3, 2), grid(2, 2, "PACK")), *two_nodes]) == 0


def test_check_does_not_ask_a_cluster_by_rays_client_protocol(capsys, tmp_path):
    assert main(["check", config(tmp_path), "--cluster", "ray://127.0.0.1:1"]) == 2
    assert "host:port or auto" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["local", "localhost:abc", "localhost:99999", ":6379", ""])
@pytest.mark.parametrize("command", ["check", "show"])
def test_what_is_no_address_of_a_cluster_is_refused_and_starts_none(capsys, tmp_path, command, address):
    option = {"check": "--cluster", "show": "--address"}[command]
    assert main([command, config(tmp_path), option, address]) == 2
    assert capsys.readouterr() == ("", f"placement: {option}: {address!r} is neither auto nor HOST:PORT\n")


@pytest.mark.parametrize(("command", "option"), [("check", "--cluster"), ("show", "--address")])
def test_a_host_that_is_not_found_is_named_with_its_option(capsys, tmp_path, command, option):
    assert main([command, config(tmp_path), option, "nosuch.invalid:6379"]) != 0
    assert capsys.readouterr().err.startswith(f"{option}: nosuch.invalid:6379: [Errno ")


def test_check_holds_the_plan_against_the_promises_of_memory(capsys, tmp_path):
    promises = "{memory_share: 0.8, kv_tokens: 9000000, memory_imbalance: 0.01}"
    file, out = config(tmp_path, extra=f"      promises: {promises}"), tmp_path / "verdict.json"
    assert main(["check", file, "--workload", "1024/256@2", "--json", str(out)]) == 0
    warnings = json.loads(out.read_text())["llama"]["warnings"]
    said = capsys.readouterr().out
    assert all(f"warning: {warning}" in said for warning in warnings)
    cache, share, imbalance = warnings
    assert re.fullmatch(r"KV cache of [\d,]+ tokens a replica, 9,000,000 promised", cache)
    assert share == "the engine takes 85 % of a GPU's memory, 80 % promised"
    assert imbalance == "memory in use differs by 1.5 % between stages, 1 % promised"


def test_check_counts_what_the_scheduler_lets_into_an_engine(capsys, tmp_path):
    file = config(tmp_path, extra="      scheduler: {requests_per_replica: 2}")
    assert main(["check", file, "--workload", "1024/256@1"]) == 0
    assert "(max_running), 1 asked" in capsys.readouterr().out


def test_check_names_the_field_of_a_wrong_hardware(capsys, tmp_path):
    assert main(["check", config(tmp_path), "--hardware", "8xfoo"]) == 2
    assert "--hardware: 'foo' is not in the catalogue" in capsys.readouterr().err
    assert main(["check", config(tmp_path, extra="      hardware: 12xh100")]) == 2
    assert "hardware: '12xh100': 12 GPUs" in capsys.readouterr().err


def test_check_does_not_wait_for_a_cluster_that_is_not_there(capsys, tmp_path):
    assert main(["check", config(tmp_path), "--cluster", "127.0.0.1:1"]) == 1
    assert "--cluster: 127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--generate", "poisson", "--replicas", "0"], "replicas: 0 is not positive"),
        (["--generate", "poisson", "--load", "0"], "load: 0 is not positive"),
        (["--generate", "poisson", "--requests", "1"], "requests: 1 make no load"),
        (["--generate", "poisson", "--requests", "-5"], "--requests: -5 is negative"),
    ],
)
def test_a_simulation_of_nothing_is_refused(capsys, arguments, said):
    assert main(["simulate", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("2023-11-16 18:15:46.6,10\n", "row 1"),
        ("2023-11-16 18:15:46.6,10,5\n2023-11-16 18:15:47.6,500000,5\n", "q1 has 500000 + 5 tokens"),
    ],
)
def test_a_trace_that_can_not_be_simulated_is_refused(capsys, tmp_path, rows, said):
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    assert main(["simulate", "--trace", str(trace)]) == 2
    assert said in capsys.readouterr().err


def test_requests_that_are_all_alike_are_a_load(capsys, tmp_path):
    trace = tmp_path / "trace.csv"
    rows = "".join(f"2023-11-16 18:15:{second}.0,10,5\n" for second in range(10, 30))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    assert main(["simulate", "--trace", str(trace), "--load", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["capacity_per_s"] > 0


def test_check_refuses_replicas_that_would_share_gpus(capsys, tmp_path):
    file = config(tmp_path, extra="      replicas: {min: 1, max: 2}")
    assert main(["check", file]) == 1
    assert "needs 16 GPUs, the cluster has 8" in capsys.readouterr().out


def test_validate_without_a_file_checks_the_full_load_rows(capsys):
    assert main(["validate"]) == 0
    assert "MLPerf" in capsys.readouterr().out


def test_validate_counts_on_each_axis_the_rows_that_have_its_figure(capsys, tmp_path):
    runs = tmp_path / "runs.csv"
    head = "id,model,system,precision,backend,tp,pp,isl,osl,concurrency,ttft_ms,tpot_ms"
    row = "meta-llama/Llama-3.1-8B,h100_sxm,fp8,vllm,1,1,256,16,1"
    runs.write_text(f"{head}\na,{row},20,6\nb,{row},,6\n")
    assert main(["validate", "--csv", str(runs)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^TPOT +held out +2 ", said, re.MULTILINE)
    assert re.search(r"^TTFT +held out +1 ", said, re.MULTILINE)


@pytest.mark.parametrize("command", ["plan", "check", "validate", "claims", "fit"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage" in capsys.readouterr().out
