"""Schemas: where they may be, which are compiled together, and that the same ones are read once."""

from __future__ import annotations

import pytest

from app.gateway import grammars
from app.gateway.errors import ApiError
from app.gateway.grammars import check_grammars
from app.limits import DEFAULT_LIMITS, RequestLimits


def tool(description: str) -> dict:
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}}
    return {"type": "function", "function": {"name": "f", "description": description, "parameters": schema}}


def check(value: dict, limits: RequestLimits = DEFAULT_LIMITS, always_compiled: bool = False) -> None:
    check_grammars(value, limits, always_compiled)


def test_tools_that_were_accepted_are_not_looked_through_again(monkeypatch):
    looked_through = []

    def levels(value):
        looked_through.append(value)
        return []

    monkeypatch.setattr(grammars, "levels", levels)
    once, other = tool("known by this test alone"), tool("another")
    for _ in range(3):
        check({"tools": [once, other]})
    assert looked_through == [once, other]
    # Other limits are another question.
    check({"tools": [once]}, RequestLimits(max_schema_depth=31))
    assert looked_through == [once, other, once]


def test_what_is_refused_is_refused_again():
    long = tool("of a length that is too large")
    long["function"]["parameters"]["properties"]["a"]["maxLength"] = 10**6
    for _ in range(2):
        with pytest.raises(ApiError, match="lengths and repetitions of 1000000"):
            check({"tools": [long], "tool_choice": "required"})


@pytest.mark.parametrize(
    "schema", [{"type": "string", "pattern": "a?" * 100}, {"type": "string", "maxLength": 10**6}]
)
def test_the_outermost_object_of_a_schema_is_held_against_the_limits_too(schema):
    with pytest.raises(ApiError) as caught:
        check({"structured_outputs": {"json": schema}})
    assert caught.value.param == "structured_outputs.json"


def test_a_schema_is_as_large_as_its_bytes():
    limits = RequestLimits(max_schema_bytes=100)
    check({"structured_outputs": {"json": {"title": "é" * 40}}}, limits)
    with pytest.raises(ApiError, match="112 bytes exceed the limit of 100"):
        check({"structured_outputs": {"json": {"title": "é" * 50}}}, limits)


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_a_choice_of_several_lines_is_refused_by_its_field_and_value(end):
    with pytest.raises(ApiError, match=r"structured_outputs.choice: 'yes.{2}no' has several lines") as caught:
        check({"structured_outputs": {"choice": ["no", f"yes{end}no"]}})
    assert (caught.value.status, caught.value.param) == (400, "structured_outputs.choice")


def costly(number: int) -> dict:
    """Two thirds of what patterns may repeat, and of a schema's bytes."""
    schema = {"type": "string", "pattern": "a{5000}", "title": "x" * 20_000}
    return {"type": "function", "function": {"name": f"f{number}", "parameters": schema}}


def in_a_response(tool: dict) -> dict:
    return {"type": "function", **tool["function"]}


def strict(tool: dict) -> dict:
    return {**tool, "function": {**tool["function"], "strict": True}}


NAMED = {"type": "function", "function": {"name": "f1"}}
NAMED_IN_A_RESPONSE = {"type": "function", "name": "f1"}


@pytest.mark.parametrize(
    "limits", [RequestLimits(max_repetitions=10**6), RequestLimits(max_schema_bytes=10**6)]
)
@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ([costly(1), costly(2)], "required"),
        ([costly(1), strict(costly(2))], "auto"),
        ([costly(1), strict(costly(2))], None),
        ([in_a_response(costly(1)), in_a_response(strict(costly(2)))], "auto"),
        ([costly(1), costly(1)], NAMED),
        ([costly(1), costly(2)], {"type": "allowed_tools", "mode": "required", "tools": []}),
    ],
)
def test_tools_that_are_compiled_together_are_held_against_the_limits_together(tools, choice, limits):
    with pytest.raises(ApiError, match=r"tools: .* exceed the limit of") as caught:
        check({"tools": tools, "tool_choice": choice}, limits)
    assert (caught.value.status, caught.value.param) == (400, "tools")
    check({"tools": tools[:1], "tool_choice": choice}, limits)


@pytest.mark.parametrize(
    ("tools", "choice"),
    [
        ([costly(1), costly(2)], "auto"),
        ([costly(1), costly(2)], None),
        ([costly(1), strict(costly(2))], "none"),
        ([costly(1), strict(costly(2))], NAMED),
        ([in_a_response(costly(1)), in_a_response(costly(2))], NAMED_IN_A_RESPONSE),
    ],
)
def test_tools_that_are_not_compiled_count_alone_where_no_parser_compiles_them_all(tools, choice):
    check({"tools": tools, "tool_choice": choice})
    with pytest.raises(ApiError, match=r"40\d+ bytes that are compiled together"):
        check({"tools": tools, "tool_choice": choice}, always_compiled=True)


def test_the_size_and_the_depth_of_a_tool_are_limited_though_it_is_not_compiled():
    large, deep = costly(1), costly(2)
    large["function"]["description"] = "x" * 20_000
    for _ in range(40):
        deep["function"]["parameters"] = {"not": deep["function"]["parameters"]}
    for one, reason in ((large, "bytes exceed"), (deep, "nests deeper")):
        with pytest.raises(ApiError, match=reason):
            check({"tools": [one]})


def test_what_tools_are_for_is_not_compiled():
    described = [{**costly(number)} for number in range(8)]
    for one in described:
        one["function"] |= {"description": "x" * 10_000, "parameters": {}}
    check({"tools": described, "tool_choice": "required"})
    check({"tools": [in_a_response(one) for one in described], "tool_choice": "required"})


def test_a_length_that_several_tools_have_is_compiled_once():
    alike = [tool(f"of the same length, {number}") for number in range(100)]
    for one in alike:
        one["function"]["parameters"]["properties"]["a"]["maxLength"] = 4096
    check({"tools": alike[:10], "tool_choice": "required"})
    alike[0]["function"]["parameters"]["properties"]["a"]["maxLength"] = 4097
    with pytest.raises(ApiError, match="lengths and repetitions of 8193 together"):
        check({"tools": alike[:10], "tool_choice": "required"})


def test_nobody_chooses_by_a_field_that_the_path_does_not_read_what_is_looked_at():
    tools = [in_a_response(costly(1)) | {"function": {"name": "g", "strict": False}, "strict": True}] * 2
    for choice in ("auto", {"type": "function", "name": "f1", "function": {"name": "h"}}):
        with pytest.raises(ApiError, match="compiled together"):
            check({"tools": tools, "tool_choice": choice})
