"""Pictures without a plotting library: scatter plots as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

_WIDTH, _HEIGHT, _MARGIN = 720, 440, 64
_COLOURS = ("#1f6fb4", "#d1632a", "#3a8f4d", "#8a4fa3", "#6b6b6b")


@dataclass(frozen=True, slots=True)
class Series:
    """Named points (x, y, tooltip); `line` joins them in order."""

    name: str
    points: Sequence[tuple[float, float, str]]
    line: bool = False


def scatter(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """An SVG document; both axes start at zero. ValueError without any point."""
    points = [point for one in series for point in one.points]
    if not points:
        raise ValueError("plot: there is no point to draw")
    x_top = _round_up(max(x for x, _, _ in points))
    y_top = _round_up(max(y for _, y, _ in points))

    def place(x: float, y: float) -> tuple[float, float]:
        width, height = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
        return _MARGIN + x / x_top * width, _HEIGHT - _MARGIN - y / y_top * height

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_WIDTH / 2}" y="24" text-anchor="middle" font-size="15">{escape(title)}</text>',
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 16}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(18 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
    ]
    for step in range(6):
        x, bottom = place(x_top * step / 5, 0)
        left, y = place(0, y_top * step / 5)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{_WIDTH - _MARGIN}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{y_top * step / 5:g}</text>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{x_top * step / 5:g}</text>')
    for index, one in enumerate(series):
        colour = _COLOURS[index % len(_COLOURS)]
        placed = [(*place(x, y), text) for x, y, text in one.points]
        if one.line and len(placed) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(text)}</title></circle>'
            for x, y, text in placed
        ]
        parts.append(
            f'<text x="{_WIDTH - _MARGIN}" y="{44 + 16 * index}" text-anchor="end" fill="{colour}">'
            f"{escape(one.name)}</text>"
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** floor(log10(value))
    return next(factor * scale for factor in (1, 2, 5, 10) if factor * scale >= value * (1 - 1e-9))
