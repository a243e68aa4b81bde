"""Ray's private modules may change with any release: who needs one isolates it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
# Each with the test that holds it to the pinned version.
ISOLATED = {
    "app/serving/entrance.py": "tests/serving/test_entrance.py",
    "placement/ray_nodes.py": "tests/placement/test_ray_nodes.py",
}


def private_names(source: str) -> set[str]:
    """What of Ray is imported, or reached by its full name, and private by a part of that."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
    return {name for name in names if name.startswith("ray.") and "._" in name.replace(".__", "")}


def test_only_these_files_use_private_modules_of_ray():
    found = {
        str(path.relative_to(REPOSITORY))
        for folder in ("app", "placement")
        for path in (REPOSITORY / folder).rglob("*.py")
        if private_names(path.read_text())
    }
    assert found == set(ISOLATED)
    assert all((REPOSITORY / test).is_file() for test in ISOLATED.values())


@pytest.mark.parametrize(
    "source",
    ["import ray.serve._private.x", "from ray.serve.context import _x", "import ray\nray._private.state.x()"],
)
def test_each_way_to_a_private_module_is_seen(source: str):
    assert private_names(source)
    assert not private_names("import ray\nfrom ray import serve\nray.init()\nray.__version__")
