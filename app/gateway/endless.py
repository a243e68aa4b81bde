"""Schemas and grammars that lead only to themselves: the engine fails on them, so they are refused here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

# Whose values are whole schemas, to which `#` refers.
_ROOTS = frozenset({"schema", "json", "parameters", "input_schema"})
_DEFINITIONS = ("$defs", "definitions")
# GBNF's and Lark's.
_RULE = re.compile(r"^[ \t]*([A-Za-z_][\w-]*)[ \t]*(?:::=|:)", re.MULTILINE)
_FIRST = re.compile(r"[\s(]*([A-Za-z_][\w-]*)")


def is_endless_schema(value: object) -> bool:
    """Whether a schema, or a definition in one, is a reference that comes back to itself. Recursion through a
    property is none. `value` is not nested deeper than the limits say."""
    return any(_comes_back(root) for root in _roots(value))


def _roots(value: object) -> Iterator[dict[str, Any]]:
    level: list[tuple[bool, object]] = [(True, value)]
    while level:
        yield from (one for is_root, one in level if is_root and isinstance(one, dict))
        level = [inner for _, one in level for inner in _inner(one)]


def _inner(value: object) -> list[tuple[bool, object]]:
    if isinstance(value, dict):
        return [(key in _ROOTS, one) for key, one in value.items()]
    return [(False, one) for one in value] if isinstance(value, list) else []


def _starts(root: dict[str, Any]) -> Iterator[object]:
    yield root
    for name in _DEFINITIONS:
        if isinstance(definitions := root.get(name), dict):
            yield from definitions.values()


def _comes_back(root: dict[str, Any]) -> bool:
    # What one start has followed to its end, no other follows again.
    ended = set[str]()
    for start in _starts(root):
        node, path = start, set[str]()
        while isinstance(node, dict) and isinstance(reference := node.get("$ref"), str):
            if reference in path:
                return True
            if reference in ended:
                break
            path.add(reference)
            node = _resolved(root, reference)
        ended |= path
    return False


def _resolved(root: dict[str, Any], reference: str) -> object:
    """None where it leads elsewhere or nowhere: that is the engine's to say."""
    if not reference.startswith("#"):
        return None
    node: object = root
    for part in reference.removeprefix("#").split("/")[1:]:
        node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return node


def is_left_recursive(grammar: str) -> bool:
    """Whether a rule begins with itself, also by way of others."""
    rules = list(_RULE.finditer(grammar))
    ends = [rule.start() for rule in rules[1:]] + [len(grammar)]
    firsts = {
        rule[1]: {first[1] for part in grammar[rule.end() : end].split("|") if (first := _FIRST.match(part))}
        for rule, end in zip(rules, ends, strict=False)
    }
    return not _is_ordered(firsts)


def _is_ordered(firsts: Mapping[str, set[str]]) -> bool:
    """Whether no name leads back to itself."""
    try:
        TopologicalSorter(firsts).prepare()
    except CycleError:
        return False
    return True
