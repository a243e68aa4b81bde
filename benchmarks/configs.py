"""A configuration with some of its sections changed, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# Costs next to nothing to load and to run: what is left is the way to it.
TINY_LLAMA = {"name": "tiny-llama", "source": "embedded:tiny-llama"}


def changed(config: Path, folder: Path, name: str, sections: dict[str, Any]) -> Path:
    """`folder/name.yaml`: the one application of `config`; fields of `sections` go over those that it has."""
    document = yaml.safe_load(config.read_text())
    (application,) = document["applications"]
    given = application["args"]
    for section, fields in sections.items():
        given[section] = {**given.get(section, {}), **fields}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    return file
