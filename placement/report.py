"""Tables for people and JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, rule: bool = True) -> str:
    """Columns padded to their widest cell, two spaces between; `rule`: a line under the header."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, *([["-" * width for width in widths]] if rule else []), *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def percent(error: float | None) -> str:
    """A signed whole percent; "-" when there is no figure."""
    return "-" if error is None else f"{100 * error:+.1f} %"


def write_json(file: Path, value: object) -> None:
    """Dataclasses become objects; the file is replaced."""
    file.write_text(json.dumps(value, default=_plain, indent=1) + "\n")


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
