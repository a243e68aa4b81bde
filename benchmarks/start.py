"""Time to ready by phase, beside bare vLLM: same model, same engine arguments, nothing else running.

A round starts either server once, alone, the order turning each round, and ends it; ready is the first 200
of `/health` (bare) and of `/ready` (ours, which Ray's start is part of). Before a cold start the files of
Python, of the packages and of the model are put out of the page cache, but for what other processes have
mapped; warm starts find them there, for one start of each before them is not counted. The ratio is ours /
bare of a round. Ours by phase: the launcher's lines, and the line that the engine logs of its own start.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from app.config_file import load_applications
from app.engine.models import prepare
from benchmarks import markdown
from benchmarks.configs import TINY_LLAMA, changed
from benchmarks.page_cache import evict
from benchmarks.resampling import median_with_interval
from benchmarks.servers import Server, bare_vllm, ours
from benchmarks.start_phases import phases_s

Json = dict[str, Any]
# Under scripts/serve (RAY_SERVE_THROUGHPUT_OPTIMIZED) replicas log to files of Ray's session only. From
# stderr the engine's line comes to the file where it is looked for.
ON_STDERR = {"RAY_SERVE_LOG_TO_STDERR": "1"}
# Ray forwards what replicas write to its driver's log within a second or so.
LINE_TIMEOUT_S = 20.0
POLL_S = 0.1
# Of fewer rounds there is no interval: the range of two holds the median half of the time.
SURE_ROUNDS = 5
_FOLDER = re.compile(r"logs are in (\S+)")


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds to ready of both; `phases_s` of ours."""

    bare_s: float
    ours_s: float
    phases_s: dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("serve_configs/smollm2-cpu.yaml"))
    parser.add_argument("--own-model", action="store_true", help="the configuration's, not the tiny Llama")
    parser.add_argument("--rounds", type=int, default=5, help="warm starts of each")
    parser.add_argument("--cold", type=int, default=2, help="cold starts of each, before the warm ones")


def run(options: argparse.Namespace) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        config = options.config
        if not options.own_model:
            sections = {"model": TINY_LLAMA, "engine": {"dtype": "float32", "cpu_kv_cache_gib": 1}}
            config = changed(config, Path(folder), "start", sections)
        (application,) = load_applications(config)
        model = Path(prepare(application.args.model.source))
        cold = [_round(config, number, [*_files(), model]) for number in range(options.cold)]
        if options.rounds:
            _round(config, 0, [])
        warm = [_round(config, number, []) for number in range(options.rounds)]
    taken = {"cold": cold, "warm": warm}
    return {"model": application.args.model.name} | {
        name: figures(rounds) for name, rounds in taken.items() if rounds
    }


def _files() -> list[Path]:
    return [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]


def _round(config: Path, number: int, cold: Sequence[Path]) -> Round:
    """Bare vLLM first in the first round. `cold`: what is put out of the page cache before each start."""
    bare_s, own_s, phases = 0.0, 0.0, {}
    for turn in range(2):
        evict(cold)
        if (number + turn) % 2 == 0:
            with bare_vllm(config) as bare:
                bare_s = bare.start_s
        else:
            with ours(config, ON_STDERR) as own:
                own_s, phases = own.start_s, _phases_s(own, time.time())
    print(f"{'cold' if cold else 'warm'}: bare {bare_s:.1f} s, ours {own_s:.1f} s", file=sys.stderr)
    return Round(bare_s, own_s, phases)


def _phases_s(server: Server, ready_s: float) -> dict[str, float]:
    """Raises RuntimeError when the engine's line does not come."""
    launcher = server.output.read_text(errors="replace")
    found = _FOLDER.search(launcher)
    assert found is not None
    folder = Path(found[1])
    deadline_s = time.monotonic() + LINE_TIMEOUT_S
    while time.monotonic() < deadline_s:
        # Its last write to this file is its word that Ray runs: it ties its own clock to the machine's.
        ray_s = (folder / "env").stat().st_mtime
        log = (folder / "serve.log").read_text(errors="replace")
        with contextlib.suppress(LookupError):
            return phases_s(launcher, log, ready_s - server.start_s, ray_s, ready_s)
        time.sleep(POLL_S)
    raise RuntimeError(f"the engine has not told its phases in {folder}/serve.log")


def figures(rounds: Sequence[Round]) -> Json:
    return {
        "rounds": len(rounds),
        "bare_s": median(one.bare_s for one in rounds),
        "ours_s": median(one.ours_s for one in rounds),
        "ratio": median_with_interval([one.ours_s / one.bare_s for one in rounds]),
        "phases_s": {name: median(one.phases_s[name] for one in rounds) for name in rounds[0].phases_s},
    }


def table(figures: Json) -> str:
    """Markdown: both beside each other, then the phases of ours."""
    kinds = {name: of for name, of in figures.items() if name != "model"}
    lines = [
        f"{figures['model']}, start to ready, medians; ratio ours / bare [95 % interval].",
        "",
        "| page cache | rounds | bare vLLM s | ours s | ratio |",
        "| --- " * 5 + "|",
    ]
    for name, of in kinds.items():
        ratio = of["ratio"]
        cell = markdown.interval(ratio, 2) if of["rounds"] >= SURE_ROUNDS else f"{ratio['median']:.2f}"
        starts = f"{of['bare_s']:.1f} | {of['ours_s']:.1f}"
        lines.append(f"| {name} | {of['rounds']} | {starts} | {cell} |")
    lines += ["", f"| phase of ours | {' | '.join(f'{name} s' for name in kinds)} |"]
    lines.append("| --- " * (1 + len(kinds)) + "|")
    first = next(iter(kinds.values()))
    for phase in first["phases_s"]:
        cells = [f"{of['phases_s'][phase]:.1f}" for of in kinds.values()]
        lines.append(f"| {phase} | {' | '.join(cells)} |")
    return "\n".join(lines)
