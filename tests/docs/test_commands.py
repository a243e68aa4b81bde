"""Every command of the documentation is run here, run by a test that is named, or has a reason not to be.

A new one fails this test until it is in one of the three tables.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.serving.launch_plan import environment
from tests.documented import PAGES, REPOSITORY, SHELL, SHOWN, blocks, commands, documented

PLAN = "python -m placement plan --model llama70b --cluster 8xh100 --workload 1024/256@8 --slo "
PLAN += "ttft_p50=500,ttft_p99=1000,tpot_p50=50,tpot_p99=100"

RUN_HERE = [
    PLAN,
    "python -m placement check serve_configs/llama70b.yaml",
    "python -m placement check serve_configs/llama70b.yaml --workload 1024/256@8",
    "python -m placement claims",
    "python -m placement show serve_configs/llama70b.yaml",
]

SMOLLM2 = "tests/integration/test_smollm2.py"
TOPOLOGY = "tests/integration/test_topology.py"
TINY_LLAMA = "tests/integration/test_tiny_llama.py"
VALIDATE = "tests/integration/test_validate.py"

# By the command: the file and the function that runs it, taken from the page by `documented`.
QUESTION = '{"model": "smollm2-135m-instruct", "messages": [{"role": "user", '
QUESTION += '"content": "What is the capital of France?"}], "temperature": 0}'
CURL = "curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json'"
VALIDATED = (
    "python -m app validate serve_configs/smollm2-cpu.yaml --start --json report.json --html report.html"
)
VARIABLES = "python -c 'import secrets, shlex; from app.serving.launch_plan import environment as all_of; "
VARIABLES += 'variables = all_of({}, "", secrets.token_hex(32)).items(); '
VARIABLES += 'print(*(f"export {name}={shlex.quote(value)}" for name, value in variables if name != "PATH"), '
VARIABLES += 'sep="\\n")\' > cluster.env'
RUN_BY = {
    VARIABLES: ("tests/docs/test_commands.py", "test_the_variables_of_a_cluster_are_those_of_scripts_serve"),
    f"{CURL} -d '{QUESTION}'": (SMOLLM2, "test_the_readmes_curl"),
    "python -m app chat": (TINY_LLAMA, "test_chat_streams_and_remembers"),
    "python -m app top": (TINY_LLAMA, "test_top_shows_it_and_ends_with_ctrl_c"),
    VALIDATED: (VALIDATE, "test_the_documented_command_starts_measures_and_stops"),
    "promtool test rules deploy/prometheus/rules_test.yml": (
        "tests/deploy/test_watching.py",
        "test_every_alert_fires_in_its_fault",
    ),
    "python -m placement show serve_configs/topology-cpu.yaml --address auto": (
        TOPOLOGY,
        "test_each_rank_is_in_its_bundle",
    ),
}

CHAOS = "python -m benchmarks chaos --cells engine-core:kill:mid-stream gateway:freeze:queued "
CHAOS += "--runs 3 --json chaos.json"

FIRST_QUESTION = '{"model": "llama-3-70b-instruct", "messages": [{"role": "user", "content": "Hello!"}]}'
FIRST = 'printf \'header = "authorization: Bearer %s"\' "$key" | curl -K - '
FIRST += "http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' "
FIRST += f"-d '{FIRST_QUESTION}'"
CUDA = "python -c 'import torch; "
CUDA += "print(torch.version.cuda, torch.cuda.is_available(), torch.cuda.device_count())'"
NEEDS_GPUS = "needs eight GPUs: never run on one"

NOT_RUN = {
    "scripts/serve": f"installs, then serves until Ctrl-C; {SMOLLM2} runs what it runs after installing",
    "scripts/serve serve_configs/topology-cpu.yaml": f"the same, with the grid that {TOPOLOGY} deploys",
    "scripts/test": "it is what runs this test",
    "scripts/audit": "asks a service of the network; what can't be asked is a status of its own",
    "scripts/check": "scripts/test runs it before this test",
    "scripts/compile": "scripts/install runs it, which has made the environment that this test runs in",
    "scripts/install --dev": "it has made the environment that this test runs in",
    "source .venv/bin/activate": "changes the reader's shell only",
    'source "$(ls -t /tmp/promiseserve-*/env | head -n 1)"': (
        f"changes the reader's shell only; {SMOLLM2} reads the file"
    ),
    "export TORCH_CPU_INDEX=ADDRESS": "changes the reader's shell only",
    "export VENV=.venv-cpu": "changes the reader's shell only",
    "scripts/install cpu": "it has made the environment that this test runs in",
    "umask 077": "changes the reader's shell only",
    "nvidia-smi -L": NEEDS_GPUS,
    "scripts/install gpu": NEEDS_GPUS,
    CUDA: NEEDS_GPUS,
    "export HF_TOKEN=...": "changes the reader's shell only",
    "hf download meta-llama/Meta-Llama-3-70B-Instruct --exclude 'original/*'": "141 GB; it needs access",
    'sudo install -d -o "$USER" /etc/promiseserve': "needs root, and changes the machine",
    "key=$(openssl rand -hex 32)": "changes the reader's shell only",
    'echo "search:$(printf %s "$key" | sha256sum | cut -c 1-64)" >> /etc/promiseserve/api-keys': (
        "changes the machine; tests/gateway/test_key_sources.py reads such files"
    ),
    "chmod 600 /etc/promiseserve/api-keys": "changes the machine; they refuse what others may write",
    'printf %s "$key" > ~/search.key': "writes into the reader's home",
    "scripts/serve serve_configs/llama70b.yaml": NEEDS_GPUS,
    FIRST: f"{NEEDS_GPUS}; {SMOLLM2} asks the same without a key",
    "PROMISESERVE_API_KEY=$key python -m app validate serve_configs/llama70b.yaml": NEEDS_GPUS,
    "docker build -f deploy/Dockerfile -t registry.example.com/promiseserve:0.1.0 .": (
        "needs a daemon; tests/deploy reads the Dockerfile"
    ),
    "docker push registry.example.com/promiseserve:0.1.0": "needs a registry",
    CHAOS: "takes minutes and kills processes; tests/chaos runs cells of it",
    "python -m benchmarks soak --minutes 20 --json soak.json": "takes as long as it is told, outside of CI",
    "prometheus --config.file=deploy/prometheus/prometheus.yml": (
        "runs until it is stopped; tests/integration/test_observability.py runs it on that file"
    ),
    "kubectl apply -f deploy/kubernetes/common.yaml -f deploy/kubernetes/one-node.yaml": (
        "needs a cluster; tests/deploy/test_kubernetes.py holds the manifests against KubeRay's schema"
    ),
    "until kubectl get service promiseserve-serve-svc; do sleep 10; done": "needs a cluster",
    "kubectl port-forward service/promiseserve-serve-svc 8000": "needs a cluster",
    "python -m placement validate --csv published.csv": "the CSV is not part of the repository",
    "python -m placement fit --measurements FOLDER": "the measurements are not part of the repository",
}

# Python blocks: a text of each, and the test that runs it.
PYTHON_RUN_BY = {
    "openai.OpenAI(": (SMOLLM2, "test_the_readmes_stream"),
    "serve.get_app_handle": (SMOLLM2, "test_the_readmes_handle"),
}


def shell_commands() -> list[tuple[str, str]]:
    """Page and command, in order."""
    return [
        (page, command)
        for page in PAGES
        for block in blocks(page)
        if block.language in SHELL
        for command in commands(block.text)
    ]


def source_of(file: str, function: str) -> str:
    """The text of a test's function; fails where there is none."""
    text = (REPOSITORY / file).read_text()
    found = [
        ast.get_source_segment(text, node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function
    ]
    assert len(found) == 1, f"{file} has {len(found)} functions {function}"
    return found[0] or ""


def test_every_command_is_run_or_has_a_reason():
    known = {*RUN_HERE, *RUN_BY, *NOT_RUN}
    assert [(page, command) for page, command in shell_commands() if command not in known] == []


def test_the_tables_hold_nothing_that_is_not_documented():
    assert {*RUN_HERE, *RUN_BY, *NOT_RUN} - {command for _, command in shell_commands()} == set()


def test_every_block_says_what_it_is():
    languages = {(block.page, block.language) for page in PAGES for block in blocks(page)}
    assert {(page, one) for page, one in languages if one not in {*SHELL, *SHOWN, "python"}} == set()


@pytest.mark.parametrize(("command", "test"), RUN_BY.items())
def test_the_named_test_takes_the_command_from_the_page(command: str, test: tuple[str, str]):
    source = ast.parse(source_of(*test).strip())
    starts = [
        argument.value
        for node in ast.walk(source)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "documented"
        for argument in node.args[1:]
        if isinstance(argument, ast.Constant)
    ]
    assert any(command.startswith(start) for start in starts), f"{test[1]} runs none that starts so"


def test_every_python_block_is_run_by_a_test_that_takes_it_from_the_page():
    for block in (block for page in PAGES for block in blocks(page) if block.language == "python"):
        tests = [test for text, test in PYTHON_RUN_BY.items() if text in block.text]
        assert len(tests) == 1, f"{block.page}: {block.text}"
        assert "documented_python(" in source_of(*tests[0])


@pytest.mark.parametrize("command", RUN_HERE)
def test_it_runs(command: str):
    folder = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "VENV": str(folder.parent)}
    run = subprocess.run(
        ["bash", "-c", command], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=180
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.strip()


def test_the_variables_of_a_cluster_are_those_of_scripts_serve(tmp_path: Path):
    command = documented("docs/operations.md", "python -c")
    folder = Path(sys.executable).parent
    paths = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}
    shown = f"{command}; source ./cluster.env; env -0"
    run = subprocess.run(
        ["bash", "-c", shown], cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=60
    )
    given = dict(line.split("=", 1) for line in run.stdout.split("\0") if line)
    expected = environment({}, "", given["RAY_AUTH_TOKEN"])
    assert {name: given.get(name) for name in expected if name != "PATH"} == {
        name: value for name, value in expected.items() if name != "PATH"
    }


def inline_commands() -> set[tuple[str, str]]:
    """Program and subcommand of what the text names in passing, as `python -m placement plan|check`."""
    named = re.compile(r"`python -m (?P<program>app|placement|benchmarks) (?P<commands>[a-z][a-z|-]*)")
    found = (match for page in PAGES for match in named.finditer((REPOSITORY / page).read_text()))
    return {(match["program"], one) for match in found for one in match["commands"].split("|")}


@pytest.mark.parametrize("program", ["app", "benchmarks", "placement"])
def test_what_the_text_names_in_passing_exists(program: str):
    run = subprocess.run(
        [sys.executable, "-m", program, "--help"], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    exist = set(re.findall(r"^ {4}([a-z-]+)", run.stdout, re.MULTILINE))
    named = {command for of, command in inline_commands() if of == program}
    assert named
    assert named - exist == set()
