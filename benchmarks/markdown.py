"""Figures as a table of Markdown."""

from __future__ import annotations

from collections.abc import Mapping


def table(first: str, rows: Mapping[str, Mapping[str, float]], form: str = "g") -> str:
    """A line for each row, its name first, under `first`. The first row says which figures there are."""
    names = list(next(iter(rows.values())))
    lines = [f"| {first} | " + " | ".join(names) + " |", "| --- " * (len(names) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(format(row[each], form) for each in names) + " |")
    return "\n".join(lines)
