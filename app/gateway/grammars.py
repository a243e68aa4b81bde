"""Schemas and patterns that bind the output: the engine compiles them, so their size is its time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from app.gateway.endless import is_endless_schema, is_left_recursive
from app.gateway.errors import ApiError, exceeds, shorten
from app.gateway.values import levels, written
from app.limits import RequestLimits

# What multiplies states in a pattern; escaped and bracketed ones are counted too: it is a bound.
_OPERATORS = re.compile(r"[*+?{]")
# `a?`, `a{0,1}`, `(a|)`: what may be there or not doubles what has to be followed.
_OPTIONAL = re.compile(r"\?|\{0?,1\}|\(\||\|\)|\|\|")
# Possessive: what one part has taken no other tries again, or a brace and three thousand blanks take hours.
_REPETITION = re.compile(r"\{\s*+(\d*+)\s*+,?+\s*+(\d*+)\s*+\}")
# A state for each character; minItems and the like cost nothing.
_LENGTHS = ("minLength", "maxLength")
# Schemas that were accepted, tools above all: an agent sends the same ones with each request. With the
# default of `max_schema_bytes` they are 16 MiB at most.
KEPT_SCHEMAS = 512


def check_grammars(value: Mapping[str, Any], limits: RequestLimits) -> None:
    """Raises ApiError 400 for what would take the engine too long to compile."""
    for field, schema in _schemas(value):
        written_schema = schema if isinstance(schema, str) else written(field, schema)
        _check_size(field, written_schema, limits)
        _check_schema(field, written_schema, limits)
    structured = value.get("structured_outputs")
    if not isinstance(structured, dict):
        return
    for name in ("regex", "whitespace_pattern"):
        if isinstance(pattern := structured.get(name), str):
            _check_patterns(f"structured_outputs.{name}", [pattern], [], limits)
    for name in ("grammar", "structural_tag"):
        if isinstance(text := structured.get(name), str):
            field = f"structured_outputs.{name}"
            _check_size(field, text, limits)
            _check_brackets(field, text, limits)
            _check_patterns(field, [], [text], limits)
            if name == "grammar" and is_left_recursive(text):
                raise ApiError(400, "invalid_value", f"{field}: a rule begins with itself", field)
    if isinstance(choices := structured.get("choice"), list):
        field = "structured_outputs.choice"
        _check_size(field, "".join(map(str, choices)), limits)
        for choice in map(str, choices):
            if "\n" in choice or "\r" in choice:
                # vLLM writes choices as a grammar, in which a text ends with its line.
                raise ApiError(400, "invalid_value", f"{field}: {shorten(choice)} has several lines", field)


def _schemas(value: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Every schema of a request and the field that holds it; vLLM takes some of them as text."""
    if isinstance(form := value.get("response_format"), dict):
        # The whole of it: a structural tag has schemas anywhere.
        yield "response_format", form
    if isinstance(structured := value.get("structured_outputs"), dict):
        yield "structured_outputs.json", structured.get("json")
        yield "structured_outputs.structural_tag", structured.get("structural_tag")
    if isinstance(text := value.get("text"), dict):
        yield "text.format", text.get("format")
    tools = value.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict):
            yield "tools", tool


@lru_cache(KEPT_SCHEMAS)
def _check_schema(field: str, text: str | bytes, limits: RequestLimits) -> None:
    """What it raises is not kept."""
    schema = _parsed(text)
    patterns: list[str] = []
    lengths: set[int] = set()
    for depth, level in enumerate(levels(schema)):
        if depth > limits.max_schema_depth:
            reason = f"{field}: a schema nests deeper than {limits.max_schema_depth} levels"
            raise ApiError(400, "invalid_value", reason, field)
        for one in level:
            if isinstance(one, dict):
                patterns += _patterns(one)
                lengths.update(n for key in _LENGTHS if type(n := one.get(key)) is int)
    _check_patterns(field, patterns, [], limits, sum(lengths))
    if is_endless_schema(schema):
        raise ApiError(400, "invalid_value", f"{field}: a schema is only a reference to itself", field)


def _parsed(text: str | bytes) -> object:
    """None for what is no JSON: the engine will say so."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _patterns(schema: dict[str, Any]) -> Iterator[str]:
    if isinstance(pattern := schema.get("pattern"), str):
        yield pattern
    if isinstance(by_pattern := schema.get("patternProperties"), dict):
        yield from by_pattern


def _check_patterns(
    field: str, patterns: list[str], texts: list[str], limits: RequestLimits, lengths: int = 0
) -> None:
    """`texts` are grammars: what is optional in them and what they repeat is counted, stars are not."""
    for pattern in patterns:
        if len(pattern) > limits.max_regex_chars:
            raise exceeds(field, f"a pattern of {len(pattern)} characters", limits.max_regex_chars)
    operators = sum(len(_OPERATORS.findall(pattern)) for pattern in patterns)
    if operators > limits.max_regex_operators:
        raise exceeds(field, f"{operators} repetitions in patterns", limits.max_regex_operators)
    optionals = sum(len(_OPTIONAL.findall(text)) for text in [*patterns, *texts])
    if optionals > limits.max_regex_optionals:
        raise exceeds(field, f"{optionals} optional parts in patterns", limits.max_regex_optionals)
    repeated = lengths + sum(_repeated(text) for text in [*patterns, *texts])
    if repeated > limits.max_repetitions:
        raise exceeds(
            field, f"lengths and repetitions of {_shown(repeated)} together", limits.max_repetitions
        )


def _repeated(pattern: str) -> int:
    return sum(max(int(low or 0), int(high or 0)) for low, high in _bounds(pattern))


def _bounds(pattern: str) -> list[tuple[str, str]]:
    """Digits that Python won't read (more than 4,300) are cut: they exceed every limit all the same."""
    return [(low[:20], high[:20]) for low, high in _REPETITION.findall(pattern)]


def _check_size(field: str, text: str | bytes, limits: RequestLimits) -> None:
    size_bytes = len(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
    if size_bytes > limits.max_schema_bytes:
        raise exceeds(field, f"{size_bytes} bytes", limits.max_schema_bytes)


def _check_brackets(field: str, grammar: str, limits: RequestLimits) -> None:
    """A bound of how deeply a grammar nests: its deepest bracket, quoted ones included."""
    depth = deepest = 0
    for character in grammar:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if deepest > limits.max_schema_depth:
        raise exceeds(field, f"{deepest} levels of brackets", limits.max_schema_depth)


def _shown(number: int) -> str:
    return str(number) if number < 10**12 else "more than 10^12"
