"""The notebook's code runs from top to bottom."""

import json
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "plan_llama70b.ipynb"


def test_every_cell_of_the_notebook_runs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    namespace = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), namespace)
    assert len(namespace["planned"].candidates) > 50
