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
