"""How long the engine's compiler takes for schemas and patterns: what the limits of app/limits.py come from.

Each is compiled in a process of its own, one thread, over a vocabulary of 32,000; one that takes too long is
ended and its bound is told.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from typing import Any

VOCABULARY = 32_000
LONGEST_S = 15.0


def _nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def _properties(number: int, schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": schema(i) for i in range(number)}}


SCHEMAS: dict[str, Any] = {
    "1,000 properties": _properties(1000, lambda _: {"type": "string"}),
    "objects 30 deep": _nested(30),
    "objects 100 deep": _nested(100),
    "objects 400 deep": _nested(400),
    "maxLength 4,096": {"type": "string", "maxLength": 4096},
    "maxLength 8,192": {"type": "string", "maxLength": 8192},
    "100 different maxLength below 4,096": _properties(
        100, lambda i: {"type": "string", "maxLength": 4096 - i}
    ),
    "minItems 1,000,000": {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
}
PATTERNS = {
    ".{0,4096}": ".{0,4096}",
    "16 times .?": ".?" * 16,
    "32 times .?": ".?" * 32,
    "64 times .?": ".?" * 64,
    "500 times .*": ".*" * 500,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> dict[str, float | None]:
    """Seconds by what was compiled; None where LONGEST_S was not enough."""
    texts = {name: ("schema", json.dumps(schema)) for name, schema in SCHEMAS.items()}
    texts |= {name: ("pattern", pattern) for name, pattern in PATTERNS.items()}
    return {f"{kind}: {name}": _seconds(kind, text) for name, (kind, text) in texts.items()}


def _seconds(kind: str, text: str) -> float | None:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_compile, args=(kind, text, theirs))
    process.start()
    try:
        ours.recv()
        return ours.recv() if ours.poll(LONGEST_S) else None
    finally:
        process.kill()
        process.join()


def _compile(kind: str, text: str, done: Any) -> None:
    import xgrammar

    names = [chr(i) for i in range(256)] + [f"t{i}" for i in range(VOCABULARY - 256)]
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(names), max_threads=1)
    done.send("ready")
    started_s = time.perf_counter()
    compiler.compile_json_schema(text) if kind == "schema" else compiler.compile_regex(text)
    done.send(time.perf_counter() - started_s)


def table(figures: dict[str, float | None]) -> str:
    lines = ["| compiled | seconds |", "| --- | --- |"]
    for name, seconds in figures.items():
        lines.append(f"| {name} | {f'more than {LONGEST_S:.0f}' if seconds is None else f'{seconds:.2f}'} |")
    return "\n".join(lines)
