"""Schemas and patterns that bind the output: the engine compiles them, so their size is its time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
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
# Schemas that were looked through, tools above all: an agent sends the same ones with each request. With the
# default of `max_schema_bytes` they are 16 MiB at most.
KEPT_SCHEMAS = 512
# Reasoning parsers of vLLM 0.29 that have tools compiled whatever `tool_choice` says.
COMPILING_PARSERS = frozenset({"cohere_command3", "cohere_command4"})


@dataclass(frozen=True, slots=True)
class _Cost:
    """What of a schema, or of a text with patterns, multiplies the states that it is compiled to."""

    longest: int
    operators: int
    optionals: int
    repeated: int
    # Each is compiled once, however often it is written.
    lengths: frozenset[int] = frozenset()
    endless: bool = False


def check_grammars(value: Mapping[str, Any], limits: RequestLimits, always_compiled: bool) -> None:
    """Raises ApiError 400 for what would take the engine too long to compile. `always_compiled`: tools are,
    also where the model is free to call none."""
    for field, schema in _schemas(value):
        _check_costs(field, [_looked_through(field, schema, limits)], limits)
    _check_tools(value, limits, always_compiled)
    structured = value.get("structured_outputs")
    if not isinstance(structured, dict):
        return
    for name in ("regex", "whitespace_pattern"):
        if isinstance(pattern := structured.get(name), str):
            _check_costs(f"structured_outputs.{name}", [_cost([pattern], [])], limits)
    for name in ("grammar", "structural_tag"):
        if isinstance(text := structured.get(name), str):
            field = f"structured_outputs.{name}"
            _check_size(field, text, limits)
            _check_brackets(field, text, limits)
            _check_costs(field, [_cost([], [text])], limits)
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


def _check_tools(value: Mapping[str, Any], limits: RequestLimits, always_compiled: bool) -> None:
    """Each by itself, and together those of which the engine makes one grammar."""
    tools = value.get("tools")
    tools = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    costs = [_looked_through("tools", tool, limits) for tool in tools]
    are_compiled = [True] * len(tools) if always_compiled else _are_compiled(tools, value.get("tool_choice"))
    size_bytes = sum(len(written("tools", _bare(tool))) for tool in compress(tools, are_compiled))
    if size_bytes > limits.max_schema_bytes:
        raise exceeds("tools", f"{size_bytes} bytes that are compiled together", limits.max_schema_bytes)
    _check_costs("tools", list(compress(costs, are_compiled)), limits)


def _are_compiled(tools: list[dict[str, Any]], choice: object) -> list[bool]:
    """vLLM's tool parsers compile the tools of which one must be called, and all where one is strict."""
    if choice in (None, "auto"):
        is_strict = any(strict not in (None, False) for tool in tools for strict in _said(tool, "strict"))
        return [is_strict] * len(tools)
    if isinstance(choice, dict) and (names := [name for name in _said(choice, "name") if name is not None]):
        return [any(name in names for name in _said(tool, "name")) for tool in tools]
    return [choice != "none"] * len(tools)


def _said(tool: dict[str, Any], name: str) -> list[object]:
    """Where chats say it and where responses do: who says it in both places does not choose which is read."""
    return [place.get(name) for place in (tool, tool.get("function")) if isinstance(place, dict)]


def _bare(tool: dict[str, Any]) -> dict[str, Any]:
    """Without what it is for: the model reads that, and no grammar does."""
    bare = {name: said for name, said in tool.items() if name != "description"}
    return bare | {"function": _bare(bare["function"])} if isinstance(bare.get("function"), dict) else bare


def _looked_through(field: str, schema: object, limits: RequestLimits) -> _Cost:
    text = schema if isinstance(schema, str) else written(field, schema)
    _check_size(field, text, limits)
    return _schema_cost(field, text, limits)


@lru_cache(KEPT_SCHEMAS)
def _schema_cost(field: str, text: str | bytes, limits: RequestLimits) -> _Cost:
    """Raises ApiError 400 for a schema that nests too deeply, each time anew."""
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
    return _cost(patterns, [], frozenset(lengths), is_endless_schema(schema))


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


def _cost(
    patterns: list[str], texts: list[str], lengths: frozenset[int] = frozenset(), endless: bool = False
) -> _Cost:
    """`texts` are grammars: what is optional in them and what they repeat is counted, stars are not."""
    return _Cost(
        max(map(len, patterns), default=0),
        sum(len(_OPERATORS.findall(pattern)) for pattern in patterns),
        sum(len(_OPTIONAL.findall(text)) for text in [*patterns, *texts]),
        sum(_repeated(text) for text in [*patterns, *texts]),
        lengths,
        endless,
    )


def _check_costs(field: str, costs: list[_Cost], limits: RequestLimits) -> None:
    """Of what is compiled together."""
    if (longest := max((cost.longest for cost in costs), default=0)) > limits.max_regex_chars:
        raise exceeds(field, f"a pattern of {longest} characters", limits.max_regex_chars)
    if (operators := sum(cost.operators for cost in costs)) > limits.max_regex_operators:
        raise exceeds(field, f"{operators} repetitions in patterns", limits.max_regex_operators)
    if (optionals := sum(cost.optionals for cost in costs)) > limits.max_regex_optionals:
        raise exceeds(field, f"{optionals} optional parts in patterns", limits.max_regex_optionals)
    lengths = set[int]().union(*(cost.lengths for cost in costs))
    repeated = sum(cost.repeated for cost in costs) + sum(lengths)
    if repeated > limits.max_repetitions:
        raise exceeds(
            field, f"lengths and repetitions of {_shown(repeated)} together", limits.max_repetitions
        )
    if any(cost.endless for cost in costs):
        raise ApiError(400, "invalid_value", f"{field}: a schema is only a reference to itself", field)


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
