"""Figures as people read them: three digits that mean something, and a unit that stays with its number."""

from __future__ import annotations

import math

# Narrow and without a break (U+202F).
SPACE = "\u202f"
# A figure that is not known.
UNKNOWN = "–"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def count(value: float) -> str:
    """12,345."""
    return f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """0 s, 35 ms, 4.2 s, 42 s, 3 min 20 s, 1 h, 2 h 5 min."""
    if value is None:
        return UNKNOWN
    if value < 0.0005:
        return f"0{SPACE}s"
    if value < 0.9995:
        return f"{value * 1000:.0f}{SPACE}ms"
    if value < 9.95:
        return f"{value:.1f}".removesuffix(".0") + f"{SPACE}s"
    whole = round(value)
    if whole < 120:
        return f"{whole}{SPACE}s"
    if whole < 7200 and whole % 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    return _two(whole // 3600, "h", whole % 3600 // 60, "min")


def percent(share: float | None, digits: int = 0) -> str:
    """Rounded down, so that only what is whole is 100 %."""
    if share is None:
        return UNKNOWN
    scale = 10.0**digits
    # 0.29 x 100 is 28.999999999999996.
    return f"{math.floor(round(share * 100 * scale, 6)) / scale:.{digits}f}{SPACE}%"


def size(value: float | None) -> str:
    """Bytes: 512 KiB, 3.4 GiB."""
    if value is None:
        return UNKNOWN
    unit = 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value /= 1024
        unit += 1
    digits = 0 if value >= 9.95 or unit == 0 else 1
    return f"{value:.{digits}f}{SPACE}{UNITS[unit]}"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    text = f"{large}{SPACE}{large_unit}"
    return f"{text} {small}{SPACE}{small_unit}" if small else text
