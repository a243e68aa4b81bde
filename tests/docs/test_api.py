"""docs/api.md names every code and every path that a client may meet."""

from __future__ import annotations

import ast
from pathlib import Path

from app.contract import LEASED_PATHS
from app.flow.outcome import Outcome
from app.limits import FORBIDDEN_FIELDS
from tests.documented import REPOSITORY

PAGE = (REPOSITORY / "docs/api.md").read_text(encoding="utf-8")


def codes_of(file: Path) -> set[str]:
    """The codes that a module gives to `ApiError` and `invalid`, as literals or as constants of its own."""
    tree = ast.parse(file.read_text())
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            position = {"ApiError": 1, "invalid": 3}.get(node.func.id)
            argument = node.args[position] if position is not None and len(node.args) > position else None
            if isinstance(argument, ast.Constant):
                found.add(argument.value)
            elif isinstance(argument, ast.Name) and argument.id in constants:
                found.add(constants[argument.id])
    return found


def test_every_code_is_documented():
    codes = set.union(*(codes_of(file) for file in (REPOSITORY / "app/gateway").glob("*.py")))
    assert {"invalid_json", "context_length_exceeded", "engine_lost"} <= codes
    codes |= {outcome.label for outcome in Outcome}
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


def test_every_outcome_stands_at_its_status():
    for outcome in Outcome:
        if outcome.status is not None:
            (row,) = [
                line for line in PAGE.splitlines() if line.startswith("| ") and f"`{outcome.label}`" in line
            ]
            assert row.startswith(f"| {outcome.status} ")


def test_every_path_is_documented():
    assert {path for path in LEASED_PATHS if f"`{path}`" not in PAGE and f"POST {path}`" not in PAGE} == set()


def test_every_forbidden_field_is_documented_with_its_reason():
    rows = {line for line in PAGE.splitlines() if line.startswith("| ")}
    assert {f"| `{name}` | {why} |" for name, why in FORBIDDEN_FIELDS.items()} - rows == set()
