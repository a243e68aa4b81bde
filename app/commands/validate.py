"""`app validate`: a running application against the promises of its configuration."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.commands.server import KEY_VARIABLE, server_at
from app.config import ApplicationConfig
from app.config_file import ConfigFileError, ServedApplication, load_file, problem_line
from app.validation import phases
from app.validation.launched import launched
from app.validation.measured import Measurements
from app.validation.page import report_page
from app.validation.phases import LATENCY, MEMORY, THROUGHPUT, Durations
from app.validation.report import Report, report_json, report_table
from app.validation.verdicts import judge
from app.validation.workload import Target

BROKEN = 3
# Room for the reasons where the output is no terminal.
PLAIN_WIDTH = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the file that it was started with")
    parser.add_argument("--url", help="where it is served (what CONFIG says)")
    parser.add_argument("--start", action="store_true", help="start it first, and stop it afterwards")
    parser.add_argument("--application", metavar="NAME", help="which one, where CONFIG has several")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write verdicts and measurements")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write one page with pictures")
    parser.add_argument(
        "--load-s", type=float, default=30.0, help="for latency, and again for throughput (30)"
    )
    parser.add_argument("--filling-s", type=float, default=120.0, help="most, to fill the KV cache (120)")
    parser.epilog = (
        f"Exit status: 0 what was measured is kept, {BROKEN} a promise is broken, 2 bad input, 1 nobody "
        f"answers. An API key is read from the environment variable {KEY_VARIABLE}."
    )


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigFileError and ValueError for bad input, ConnectionError where nobody answers."""
    served, url = _chosen(arguments)
    if problems := list(served.args.promise_problems()):
        raise ConfigFileError([problem_line(problem) for problem in problems])
    durations = Durations(arguments.load_s, arguments.filling_s)
    if min(durations.load_s, durations.filling_s) <= 0:
        raise ValueError("--load-s, --filling-s: no time to measure anything")
    with launched(arguments.config) if arguments.start else contextlib.nullcontext():
        report = validate(served, url, durations)
    _show(report)
    if arguments.json is not None:
        arguments.json.write_text(report_json(report), encoding="utf-8")
    if arguments.html is not None:
        arguments.html.write_text(report_page(report), encoding="utf-8")
    return 0 if report.kept else BROKEN


def _chosen(arguments: argparse.Namespace) -> tuple[ServedApplication, str]:
    """The application to measure, and its base URL."""
    file = load_file(arguments.config)
    applications = file.applications
    names = [application.name for application in applications]
    if arguments.application is None and len(names) > 1:
        raise ValueError(f"--application: CONFIG has several: {', '.join(names)}")
    if arguments.application not in (None, *names):
        raise ValueError(f"--application: {arguments.application!r} is not one of {', '.join(names)}")
    index = 0 if arguments.application is None else names.index(arguments.application)
    url = arguments.url or file.url(applications[index])
    if url is None:
        raise ValueError("--url: CONFIG has no route_prefix for it")
    return applications[index], url


def validate(served: ServedApplication, url: str, durations: Durations) -> Report:
    """Measures and judges; bars on the terminal meanwhile. Raises ConnectionError where nobody answers."""
    config = served.args
    began_s, taken_at = time.monotonic(), datetime.now().astimezone().isoformat(timespec="seconds")
    measured = _measure(config, _target(url, config.model.name), durations)
    verdicts = judge(config.promises, config.promised_kv_tokens(), measured)
    seconds = round(time.monotonic() - began_s, 1)
    return Report(served.name, config.model.name, url, taken_at, seconds, tuple(verdicts), measured)


def _target(url: str, model: str) -> Target:
    server = server_at(url)
    parts = urlsplit(server.url)
    return Target(f"{parts.scheme}://{parts.netloc}", parts.path, model, server.key or "")


def _measure(config: ApplicationConfig, target: Target, durations: Durations) -> Measurements:
    with _bars() as tell:
        return asyncio.run(phases.measure(config, target, durations, tell))


@contextlib.contextmanager
def _bars() -> Iterator[phases.Progress]:
    """One bar a measurement, on stderr: what is piped on is the table."""
    columns = (TextColumn("{task.description:10}"), BarColumn(), TextColumn("{task.fields[word]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        tasks = {
            name: progress.add_task(name, total=1.0, start=False, word="")
            for name in (LATENCY, THROUGHPUT, MEMORY)
        }

        def tell(name: str, done: float, word: str) -> None:
            if not progress.tasks[tasks[name]].started:
                progress.start_task(tasks[name])
            progress.update(tasks[name], completed=min(done, 1.0), word=word)

        yield tell


def _show(report: Report) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    console.print(report_table(report))
    console.print(report.summary)
