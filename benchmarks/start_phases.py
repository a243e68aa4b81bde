"""The phases of a start, from what the launcher and the engine write of it."""

from __future__ import annotations

import re
from datetime import datetime

# `   1.2 s  Starting Ray: ...`, on the launcher's own clock.
_SAID = r"^ *(?P<at_s>[\d.]+) s  {}"
# `INFO 2026-01-02 03:04:05,678 llm_Engine ab12 -- The engine has started in 18.2 s (import 5.1, core 13.1).`
_ENGINE = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) .*The engine has started in (?P<s>[\d.]+) s "
    r"\((?P<phases>[^)]*)\)"
)


def phases_s(launcher: str, log: str, began_s: float, ray_s: float, ready_s: float) -> dict[str, float]:
    """Seconds by phase, in order: together they are the time from `began_s` to `ready_s`.

    `launcher` and `log` are what the launcher and its application have written; `ray_s` is when the launcher
    said that Ray runs. All times in seconds since the epoch. Raises LookupError where a line is missing.
    """
    starting_s, running_s = _said_s(launcher, "Starting Ray"), _said_s(launcher, "Ray runs")
    engine = _ENGINE.search(log)
    if engine is None:
        raise LookupError("The engine has started")
    engine_end_s = datetime.strptime(engine["at"], "%Y-%m-%d %H:%M:%S,%f").timestamp()
    ray_took_s = running_s - starting_s
    parts = (part.rsplit(" ", 1) for part in engine["phases"].split(", "))
    return {
        "launcher": ray_s - ray_took_s - began_s,
        "Ray": ray_took_s,
        "Serve, until the engine's replica starts": engine_end_s - float(engine["s"]) - ray_s,
        **{f"engine: {name}": float(seconds) for name, seconds in parts},
        "until /ready answers": ready_s - engine_end_s,
    }


def _said_s(launcher: str, line: str) -> float:
    found = re.search(_SAID.format(re.escape(line)), launcher, re.MULTILINE)
    if found is None:
        raise LookupError(line)
    return float(found["at_s"])
