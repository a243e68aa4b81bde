"""`python -m app validate` as far as it goes without an application."""

from __future__ import annotations

import pytest

from app.cli import main

CONFIG = """
http_options: {{host: 127.0.0.1}}
applications:
  - name: {name}
    route_prefix: {prefix}
    args:
      model: {{name: tiny, source: "embedded:tiny-llama"}}
      engine: {{device: cpu, max_model_len: {window}}}
      open_without_keys: true
"""
SECOND = CONFIG.split("applications:\n")[1]


def config(tmp_path, text: str = CONFIG, window: int = 2048, prefix: str = "/llm") -> str:
    file = tmp_path / "config.yaml"
    file.write_text(text.format(name="one", prefix=prefix, window=window))
    return str(file)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--load-s", "0"], "--load-s, --filling-s: no time to measure anything"),
        (["--application", "two"], "--application: 'two' is not one of one"),
        (["--url", "ftp://here"], "--url: 'ftp://here': not an http:// or https:// address"),
    ],
)
def test_bad_options_are_named(tmp_path, capsys, options: list[str], reason: str):
    assert main(["validate", config(tmp_path), *options]) == 2
    assert reason in capsys.readouterr().err


def test_promises_that_the_window_can_not_hold_are_named(tmp_path, capsys):
    assert main(["validate", config(tmp_path, window=512)]) == 2
    reason = "promises.prompt_tokens: 1024: with output_tokens 1280 tokens, and engine.max_model_len is 512"
    assert reason in capsys.readouterr().err


def test_one_of_several_has_to_be_chosen(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(
        CONFIG.format(name="one", prefix="/one", window=2048)
        + SECOND.format(name="two", prefix="null", window=2048)
    )
    assert main(["validate", str(file)]) == 2
    assert "--application: CONFIG has several: one, two" in capsys.readouterr().err
    assert main(["validate", str(file), "--application", "two"]) == 2
    assert "--url: CONFIG has no route_prefix for it" in capsys.readouterr().err


def test_where_nobody_answers_is_status_1(tmp_path, capsys):
    assert main(["validate", config(tmp_path), "--url", "http://127.0.0.1:1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_the_reference_is_printed(capsys):
    assert main(["config-reference"]) == 0
    assert capsys.readouterr().out.startswith("# Configuration\n")
