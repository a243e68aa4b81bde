"""What leads only to itself is told from recursion that ends."""

from __future__ import annotations

from graphlib import TopologicalSorter

import pytest

from app.gateway import endless
from app.gateway.endless import is_endless_schema, is_left_recursive

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"definitions": {"a": {"$ref": "#/definitions/b"}, "b": {"$ref": "#/definitions/a"}}},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": {"$ref": "#"}}},
        [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#"}}}],
    ],
)
def test_a_reference_that_comes_back_is_endless(schema: object):
    assert is_endless_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        None,
        "text",
        {"$ref": "#/$defs/none"},
        {"$ref": "http://host/schema"},
        {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
        {"type": "object", "properties": {"child": {"$ref": "#"}}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}},
        {"$ref": "#/$defs/x/y", "$defs": {"x": []}},
    ],
)
def test_recursion_through_a_property_ends(schema: object):
    assert not is_endless_schema(schema)


@pytest.mark.parametrize(
    ("grammar", "left"),
    [
        ('root ::= root "a"', True),
        ('root ::= "a" | ( root "b" )', True),
        ('root ::= one\none ::= two "x"\ntwo ::= root', True),
        ("start: start WORD", True),
        ('root ::= "a" root | "b"', False),
        ('root ::= one | two\none ::= "1"\ntwo ::= "2" one', False),
        ("nonsense", False),
    ],
)
def test_a_rule_that_begins_with_itself_is_left_recursive(grammar: str, left: bool):
    assert is_left_recursive(grammar) is left


def test_a_chain_of_definitions_is_followed_once(monkeypatch: pytest.MonkeyPatch):
    count = 1_000
    chain = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(count)}
    followed = 0
    resolved = endless._resolved

    def counted(root: dict, reference: str) -> object:
        nonlocal followed
        followed += 1
        return resolved(root, reference)

    monkeypatch.setattr(endless, "_resolved", counted)
    assert not is_endless_schema({"$ref": "#/$defs/d0", "$defs": chain})
    # The root's reference and each definition's.
    assert followed == count + 1


def test_rules_are_ordered_once_and_not_searched_from_each(monkeypatch: pytest.MonkeyPatch):
    built = []

    class Counted(TopologicalSorter):
        def __init__(self, graph: dict) -> None:
            built.append(len(graph))
            super().__init__(graph)

    monkeypatch.setattr(endless, "TopologicalSorter", Counted)
    rules = 3_000
    grammar = "\n".join(f"r{i} ::= r{i + 1}" for i in range(rules)) + f'\nr{rules} ::= "x"'
    assert not is_left_recursive(grammar)
    assert built == [rules + 1]
