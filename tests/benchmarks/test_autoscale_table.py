"""Which policies run where, and what is printed."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.autoscale import FIXED, POLICIES, TRACES, add_arguments, oscillations, run, table
from placement.simulation.scaling import OSCILLATION_S


def options(folder: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--traces", str(folder), "--only", "code", "--seeds", "1", *more])


def trace(folder: Path) -> Path:
    """Four requests a second for a minute."""
    lines = [
        f"2023-11-16 18:{n // 240:02d}:{n // 4 % 60:02d}.{n % 4 * 2500:04d}000,100,20" for n in range(240)
    ]
    path = folder / TRACES["code"]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n")
    return folder


def test_a_fleet_has_no_fixed_numbers(tmp_path: Path):
    figures = run(options(trace(tmp_path), "--fleet", "200", "--policies", "ours", "fixed-4", "fixed-6"))
    assert list(figures["code"]) == ["ours"]
    assert "| code | ours |" in table(figures)


def test_a_fixed_number_is_its_own(tmp_path: Path):
    figures = run(options(trace(tmp_path), "--policies", "fixed-4", "fixed-6"))["code"]
    assert set(FIXED) <= set(POLICIES)
    assert figures["fixed-6"]["replica_hours"] > 1.4 * figures["fixed-4"]["replica_hours"]


def test_a_fleet_oscillates_where_it_turns_before_the_load_could():
    soon, late = int(OSCILLATION_S), int(OSCILLATION_S) + 1
    assert oscillations([4, *[5] * soon, 4]) == 1
    assert oscillations([4, *[5] * late, 4]) == 0
    assert oscillations([4, 5, 6, 7]) == 0
