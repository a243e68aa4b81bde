"""Schemas: where they may be, and that the same ones are read once."""

from __future__ import annotations

import pytest

from app.gateway import grammars
from app.gateway.errors import ApiError
from app.gateway.grammars import check_grammars
from app.limits import DEFAULT_LIMITS, RequestLimits


def tool(description: str) -> dict:
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}}
    return {"type": "function", "function": {"name": "f", "description": description, "parameters": schema}}


def test_tools_that_were_accepted_are_not_looked_through_again(monkeypatch):
    looked_through = []

    def levels(value):
        looked_through.append(value)
        return []

    monkeypatch.setattr(grammars, "levels", levels)
    once, other = tool("known by this test alone"), tool("another")
    for _ in range(3):
        check_grammars({"tools": [once, other]}, DEFAULT_LIMITS)
    assert looked_through == [once, other]
    # Other limits are another question.
    check_grammars({"tools": [once]}, RequestLimits(max_schema_depth=31))
    assert looked_through == [once, other, once]


def test_what_is_refused_is_refused_again():
    long = tool("of a length that is too large")
    long["function"]["parameters"]["properties"]["a"]["maxLength"] = 10**6
    for _ in range(2):
        with pytest.raises(ApiError, match="lengths and repetitions of 1000000"):
            check_grammars({"tools": [long]}, DEFAULT_LIMITS)


@pytest.mark.parametrize(
    "schema", [{"type": "string", "pattern": "a?" * 100}, {"type": "string", "maxLength": 10**6}]
)
def test_the_outermost_object_of_a_schema_is_held_against_the_limits_too(schema):
    with pytest.raises(ApiError) as caught:
        check_grammars({"structured_outputs": {"json": schema}}, DEFAULT_LIMITS)
    assert caught.value.param == "structured_outputs.json"


def test_a_schema_is_as_large_as_its_bytes():
    limits = RequestLimits(max_schema_bytes=100)
    check_grammars({"structured_outputs": {"json": {"title": "é" * 40}}}, limits)
    with pytest.raises(ApiError, match="112 bytes exceed the limit of 100"):
        check_grammars({"structured_outputs": {"json": {"title": "é" * 50}}}, limits)


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_a_choice_of_several_lines_is_refused_by_its_field_and_value(end):
    with pytest.raises(ApiError, match=r"structured_outputs.choice: 'yes.{2}no' has several lines") as caught:
        check_grammars({"structured_outputs": {"choice": ["no", f"yes{end}no"]}}, DEFAULT_LIMITS)
    assert (caught.value.status, caught.value.param) == (400, "structured_outputs.choice")
