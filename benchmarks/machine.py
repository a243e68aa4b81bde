"""How steady this machine is: what other figures of it are worth.

Each processor does the same work again and again, all at the same time, for `seconds`: on a machine of one's
own each time takes as long as the last. Where neighbours share the processors, it does not.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import StatisticsError, correlation, mean, pstdev

from benchmarks import markdown

# About three milliseconds of a processor of today.
WORK = 100_000
BIN_S = 0.1
# The best is not one lucky time.
BEST_SHARE = 0.1
LATER_S = (0.1, 0.5, 1.0)

# When some work began, and how long it took.
Times = list[tuple[float, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=30.0)


def run(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    processors = sorted(os.sched_getaffinity(0))
    with ProcessPoolExecutor(len(processors)) as pool:
        times = pool.map(_work, processors, [options.seconds] * len(processors))
        return {f"processor {name}": figures(each) for name, each in zip(processors, times, strict=True)}


def _work(processor: int, seconds: float) -> Times:
    os.sched_setaffinity(0, {processor})
    times: Times = []
    end_s = time.monotonic() + seconds
    while (began_s := time.monotonic()) < end_s:
        for _ in range(WORK):
            pass
        times.append((began_s, time.monotonic() - began_s))
    return times


def figures(times: Times) -> dict[str, float]:
    """Means of a tenth of a second over the best tenth of all; how they differ and for how long they last."""
    best_s = sorted(took_s for _, took_s in times)[int(BEST_SHARE * len(times))]
    bins: dict[int, list[float]] = {}
    for began_s, took_s in times:
        bins.setdefault(int((began_s - times[0][0]) / BIN_S), []).append(took_s / best_s)
    means = [mean(each) for _, each in sorted(bins.items())]
    return {
        "mean": round(mean(means), 3),
        "deviation": round(pstdev(means), 3),
        **{f"correlation after {s:g} s": _correlation(means, round(s / BIN_S)) for s in LATER_S},
    }


def _correlation(values: Sequence[float], later: int) -> float:
    try:
        return round(correlation(values[:-later], values[later:]), 2)
    except StatisticsError:
        # Too short, or all alike.
        return 0.0


def table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    return markdown.table("times the best", figures)
