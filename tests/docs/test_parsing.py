"""What counts as a command of the documentation."""

from __future__ import annotations

import pytest

from tests import documented
from tests.documented import blocks, commands


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("scripts/serve", ["scripts/serve"]),
        ("one\n\ntwo", ["one", "two"]),
        ("# a comment\n  one   two  # another", ["one two"]),
        ("one \\\n  two \\\n  three\nfour", ["one two three", "four"]),
        ("say 'a # b' # c", ["say 'a # b'"]),
        ("say a#b", ["say a#b"]),
        ('say "it\'s" # so', ['say "it\'s"']),
        ("say 'one\ntwo'\nthree", ["say 'one two'", "three"]),
        ("say \\' # x", ["say \\'"]),
    ],
)
def test_commands(text: str, found: list[str]):
    assert list(commands(text)) == found


@pytest.mark.parametrize("text", ["one \\", "say 'one"])
def test_a_command_that_does_not_end_is_an_error(text: str):
    with pytest.raises(ValueError, match="does not end"):
        list(commands(text))


def test_blocks(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documented, "REPOSITORY", tmp_path)
    page = "```bash\none\n```\ntext ```no``` fence\n1. item\n   ```\n   two\n   ```\n````text\n```\n````\n"
    (tmp_path / "page.md").write_text(page)
    assert [(one.language, one.text) for one in blocks("page.md")] == [
        ("bash", "one"),
        ("", "   two"),
        ("text", "```"),
    ]


def test_a_block_without_an_end_is_an_error(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documented, "REPOSITORY", tmp_path)
    (tmp_path / "page.md").write_text("```bash\none\n")
    with pytest.raises(ValueError, match="not closed"):
        list(blocks("page.md"))
