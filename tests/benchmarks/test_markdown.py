"""Tables as documents hold them."""

from __future__ import annotations

from benchmarks import markdown


def test_the_first_row_says_which_columns_there_are():
    rows = [{"load": "1", "system": "ours"}, {"load": "2", "system": "vllm"}]
    assert markdown.lines(rows) == [
        "| load | system |",
        "| --- | --- |",
        "| 1 | ours |",
        "| 2 | vllm |",
    ]


def test_no_row_is_no_table():
    assert markdown.lines([]) == []


def test_a_table_names_its_rows():
    figures = {"a": {"x": 1.5, "y": 2.0}, "b": {"x": 0.25, "y": 4.0}}
    assert markdown.table("policy", figures) == (
        "| policy | x | y |\n| --- | --- | --- |\n| a | 1.5 | 2 |\n| b | 0.25 | 4 |"
    )


def test_what_was_not_measured_is_a_dash():
    assert [markdown.figure(value, ".0f") for value in (3.2, None)] == ["3", "-"]
