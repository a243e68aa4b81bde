"""What is printed of the runs."""

from __future__ import annotations

from app.load.streams import UNREACHABLE, Answer
from benchmarks.overload import table
from benchmarks.scoring import Run, score
from placement.simulation.summary import Promise
from placement.simulation.workload import Request

BUDGETS_S = {"interactive": 1.0}


def test_a_server_that_died_is_marked():
    request = Request("r0", 0.0, 10, 11, "a", "interactive")
    answer = Answer("r0", "a", "interactive", 0.0, outcome=UNREACHABLE)
    scored = score(Run({"r0": request}, [answer], 0.0), Promise(BUDGETS_S))
    text = table(
        {
            "capacity_requests_per_s": 1.0,
            "offered": {"replicas": 1, "engine_threads": 1, "ttft_budgets_s": BUDGETS_S},
            "systems": {"vllm": "as it is"},
            "missing": {},
            "runs": [{"system": "vllm", "load": 2.0, **scored}],
        }
    )
    *_, head, _, row = text.splitlines()
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert (cells["failed"], cells["refused"]) == ("1.000", "0.000")


def test_beside_bare_a_class_that_has_no_pair_is_not_measured():
    ratio = {"median": 1.0, "low": 0.9, "high": 1.25}
    request = Request("r0", 0.0, 10, 11, "a", "interactive")
    answer = Answer("r0", "a", "interactive", 0.0, outcome=UNREACHABLE)
    scored = score(Run({"r0": request}, [answer], 0.0), Promise(BUDGETS_S))
    beside_bare = {"standard": {"requests": 3, "ttft_ratio": ratio, "e2e_ratio": ratio}}
    text = table(
        {
            "capacity_requests_per_s": 1.0,
            "offered": {"replicas": 1, "engine_threads": 1, "ttft_budgets_s": BUDGETS_S},
            "systems": {"vllm": "as it is", "ours": "as it is"},
            "missing": {},
            "runs": [
                {"system": "vllm", "load": 2.0, **scored},
                {"system": "ours", "load": 2.0, **scored, "beside_bare": beside_bare},
            ],
        }
    )
    *_, head, _, row = text.splitlines()
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert (cells["interactive TTFT"], cells["standard E2E"]) == ("-", "1.00 [0.90, 1.25]")
