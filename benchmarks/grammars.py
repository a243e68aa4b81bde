"""How long the engine's compiler takes for schemas and patterns: what the limits of app/limits.py come from.

Each is compiled in a process of its own, one thread, over a vocabulary of 32,000; one that takes too long is
ended and its bound is told.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

VOCABULARY = 32_000
LONGEST_S = 15.0
# For an interpreter and the compiler's own start, on a machine that is busy.
START_TIMEOUT_S = 120.0
FAILED = "failed"
# Seconds; None where LONGEST_S was not enough; FAILED where its process ended before it had compiled.
Taken = float | str | None


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


def run(options: argparse.Namespace) -> dict[str, Taken]:
    """By what was compiled."""
    texts = {name: ("schema", json.dumps(schema)) for name, schema in SCHEMAS.items()}
    texts |= {name: ("pattern", pattern) for name, pattern in PATTERNS.items()}
    return {f"{kind}: {name}": taken(_compile, kind, text) for name, (kind, text) in texts.items()}


def taken(compile_: Callable[[str, str, Any], None], kind: str, text: str) -> Taken:
    """`compile_` says when it is ready, and then how long it took."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=compile_, args=(kind, text, theirs))
    process.start()
    # Then nobody has it but the process, and its death is the end of what can be read.
    theirs.close()
    try:
        if not ours.poll(START_TIMEOUT_S):
            return FAILED
        ours.recv()
        return float(ours.recv()) if ours.poll(LONGEST_S) else None
    except EOFError:
        return FAILED
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


def table(figures: dict[str, Taken]) -> str:
    lines = ["| compiled | seconds |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {_words(seconds)} |" for name, seconds in figures.items())])


def _words(seconds: Taken) -> str:
    if seconds is None:
        return f"more than {LONGEST_S:.0f}"
    return seconds if isinstance(seconds, str) else f"{seconds:.2f}"
