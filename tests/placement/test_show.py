"""What `python -m placement show` prints, to the letter."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from app.command_line import BAD_INPUT
from placement.cli import main
from placement.placed import Replica, Worker
from placement.show import Plan, plan_json, plan_text, replica_text
from placement.topology import Topology

LLAMA_70B = Path(__file__).parents[2] / "serve_configs" / "llama70b.yaml"


def plan(partition: list[int] | None = None, layers: int | None = 80) -> Plan:
    return Plan(
        application="llm",
        model="llama",
        source="some/llama",
        topology=Topology(4, 2),
        bundles=[{"CPU": 0.5, "GPU": 1.0}] + [{"GPU": 1.0}] * 7,
        layers=layers,
        partition=partition,
    )


def worker(rank: int, engine: str = "ab12c", application: str | None = None) -> Worker:
    name = f"vllm_Worker_{engine}_TP{rank % 2}_PP{rank // 2}"
    return Worker(name, "10.0.0.1", "f00d", rank, application)


def golden(text: str) -> str:
    return dedent(text).strip("\n")


def test_the_table_without_a_partition_is_even():
    assert plan_text(plan()) == golden("""
        llm: llama (some/llama), PP=4 x TP=2, 80 layers as 20+20+20+20
        GPU  stage  layers  tensor rank  bundle
        0    0      0-19    0            0 (CPU 0.5, GPU 1)
        1    0      0-19    1            1 (GPU 1)
        2    1      20-39   0            2 (GPU 1)
        3    1      20-39   1            3 (GPU 1)
        4    2      40-59   0            4 (GPU 1)
        5    2      40-59   1            5 (GPU 1)
        6    3      60-79   0            6 (GPU 1)
        7    3      60-79   1            7 (GPU 1)
    """)


def test_layers_of_an_unknown_model_are_not_guessed():
    small = Plan("llm", "m", "some/m", Topology(1, 1), [{"CPU": 1.0}], None, None)
    assert plan_text(small) == golden("""
        llm: m (some/m), PP=1 x TP=1, unknown layers
        process  stage  layers  tensor rank  bundle
        0        0      ?       0            0 (CPU 1)
    """)
    (rank,) = plan_json(small)["ranks"]
    assert (rank["first_layer"], rank["last_layer"]) == (None, None)


def test_a_partition_says_how_many_layers_an_unknown_model_has():
    assert "80 layers as 19+21+21+19" in plan_text(plan(partition=[19, 21, 21, 19], layers=None))


def test_a_running_engine_shows_node_bundle_group_and_actor_of_each_rank():
    workers: list[Worker | None] = [worker(rank) for rank in range(8)]
    workers[1] = Worker("vllm_Worker_ab12c_TP1_PP0", None, None, None)
    workers[7] = None
    assert replica_text(plan(), Replica("ab12c", tuple(workers))) == golden("""
        engine ab12c
        rank  stage  layers  tensor rank  node      bundle  placement group  actor
        0     0      0-19    0            10.0.0.1  0       f00d             vllm_Worker_ab12c_TP0_PP0
        1     0      0-19    1            ?         ?       ?                vllm_Worker_ab12c_TP1_PP0
        2     1      20-39   0            10.0.0.1  2       f00d             vllm_Worker_ab12c_TP0_PP1
        3     1      20-39   1            10.0.0.1  3       f00d             vllm_Worker_ab12c_TP1_PP1
        4     2      40-59   0            10.0.0.1  4       f00d             vllm_Worker_ab12c_TP0_PP2
        5     2      40-59   1            10.0.0.1  5       f00d             vllm_Worker_ab12c_TP1_PP2
        6     3      60-79   0            10.0.0.1  6       f00d             vllm_Worker_ab12c_TP0_PP3
        7     3      60-79   1            ?         ?       ?                none
    """)


def test_the_json_of_a_running_engine_holds_every_worker():
    document = plan_json(plan(), [Replica("ab12c", (worker(0, application="llm"), None))])
    (replica,) = document["replicas"]
    assert (replica["engine"], replica["application"]) == ("ab12c", "llm")
    assert replica["ranks"] == [
        {"actor": "vllm_Worker_ab12c_TP0_PP0", "node": "10.0.0.1", "placement_group": "f00d", "bundle": 0},
        None,
    ]


@pytest.mark.parametrize(
    ("running", "said", "unsaid"),
    [
        (("llm", "other"), "engine of-llm", "engine of-other"),
        (("other",), "No engine of this application runs in this grid.", "engine of-other"),
    ],
)
def test_applications_of_one_grid_are_told_apart(capsys, monkeypatch, running, said, unsaid):
    workers = [worker(rank, f"of-{application}", application) for application in running for rank in range(8)]
    monkeypatch.setattr("placement.commands.show.read_workers", lambda address: workers)
    assert main(["show", str(LLAMA_70B), "--address", "auto"]) == 0
    shown = capsys.readouterr().out
    assert said in shown
    assert unsaid not in shown
    assert "whichever application's" not in shown


def test_the_command_says_that_running_engines_may_be_another_applications(capsys, monkeypatch):
    workers = [worker(rank) for rank in range(8)]
    monkeypatch.setattr("placement.commands.show.read_workers", lambda address: workers)
    assert main(["show", str(LLAMA_70B), "--address", "auto"]) == 0
    said = capsys.readouterr().out
    assert "Running engines of this grid, whichever application's they are" in said
    assert "engine ab12c" in said


def test_the_command_prints_the_plan_of_a_file(capsys):
    assert main(["show", str(LLAMA_70B)]) == 0
    assert capsys.readouterr().out == (
        golden("""
            llm: llama-3-70b-instruct (meta-llama/Meta-Llama-3-70B-Instruct), PP=4 x TP=2, \
80 layers as 20+20+20+20
            GPU  stage  layers  tensor rank  bundle
            0    0      0-19    0            0 (CPU 2, GPU 1)
            1    0      0-19    1            1 (CPU 1, GPU 1)
            2    1      20-39   0            2 (CPU 1, GPU 1)
            3    1      20-39   1            3 (CPU 1, GPU 1)
            4    2      40-59   0            4 (CPU 1, GPU 1)
            5    2      40-59   1            5 (CPU 1, GPU 1)
            6    3      60-79   0            6 (CPU 1, GPU 1)
            7    3      60-79   1            7 (CPU 1, GPU 1)
        """)
        + "\n"
    )


def test_the_command_writes_the_plan_as_json(tmp_path, capsys):
    file = tmp_path / "plan.json"
    assert main(["show", str(LLAMA_70B), "--json", str(file)]) == 0
    (document,) = json.loads(file.read_text())
    assert [rank["bundle"] for rank in document["ranks"]] == list(range(8))
    assert "replicas" not in document


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path, capsys):
    missing = tmp_path / "missing.yaml"
    assert main(["show", str(missing)]) == BAD_INPUT
    assert capsys.readouterr().err == f"file: {missing}: No such file or directory\n"


def test_every_problem_of_a_bad_file_is_a_line_with_field_value_and_reason(tmp_path, capsys):
    file = tmp_path / "bad.yaml"
    file.write_text(LLAMA_70B.read_text().replace("tensor_parallel_size: 2", "tensor_parallel_size: 3"))
    assert main(["show", str(file)]) == BAD_INPUT
    output = capsys.readouterr()
    assert output.out == ""
    parallel = "applications.0.args.parallel"
    assert output.err.splitlines() == [
        f"{parallel}.bundles: '8 bundles': PP=4 x TP=3 needs 12: one bundle holds one rank",
        f"{parallel}.tensor_parallel_size: 3: it does not divide the model's 64 attention heads",
        f"{parallel}.tensor_parallel_size: 3: it does not divide the model's feed-forward of 28672",
        f"{parallel}.tensor_parallel_size: 3: it neither divides the model's 8 KV heads nor is a multiple of "
        "them",
    ]


@pytest.mark.parametrize("arguments", [[], ["show"], ["draw", "x.yaml"]])
def test_a_bad_command_line_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == BAD_INPUT
