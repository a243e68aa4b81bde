"""Figures as a table of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def table(first: str, rows: Mapping[str, Mapping[str, float | None]], form: str = "g") -> str:
    """A line for each row, its name first, under `first`. The first row says which figures there are; None is
    what was not measured."""
    names = list(next(iter(rows.values())))
    return "\n".join(
        lines({first: name} | {each: figure(row[each], form) for each in names} for name, row in rows.items())
    )


def figure(value: float | None, form: str) -> str:
    """A cell; "-" of what was not measured."""
    return "-" if value is None else format(value, form)


def interval(figure: Mapping[str, float] | None, digits: int) -> str:
    """A cell of a median with its interval; "-" of what was not measured."""
    if figure is None:
        return "-"
    low, high = (f"{figure[name]:.{digits}f}" for name in ("low", "high"))
    return f"{figure['median']:.{digits}f} [{low}, {high}]"


def lines(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """The first row's names, then a line for each row; nothing of no row."""
    taken = list(rows)
    if not taken:
        return []
    head = list(taken[0])
    return [_line(head), "| --- " * len(head) + "|", *(_line(row.values()) for row in taken)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
