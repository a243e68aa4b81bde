"""Code blocks of the documentation: what a reader is told to run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(REPOSITORY).as_posix()
    for page in [
        *REPOSITORY.glob("*.md"),
        *REPOSITORY.glob("docs/**/*.md"),
        *REPOSITORY.glob("deploy/**/*.md"),
    ]
)
SHELL = {"bash", "sh", "shell", "console"}
# Blocks that hold nothing to run.
SHOWN = {"yaml", "json", "text", "promql"}

_FENCE = re.compile(r"\s*(?P<ticks>`{3,}|~{3,})\s*(?P<language>[\w+-]*)")


@dataclass(frozen=True)
class Block:
    """A fenced block: the word after its fence, and what is between."""

    page: str
    language: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    """Raises ValueError for a fence that is never closed."""
    opened, language, lines = "", "", []
    for line in (REPOSITORY / page).read_text(encoding="utf-8").splitlines():
        fence = _FENCE.match(line)
        if not opened and fence is not None:
            opened, language, lines = fence["ticks"], fence["language"], []
        elif opened and line.strip() == opened:
            yield Block(page, language, "\n".join(lines))
            opened = ""
        elif opened:
            lines.append(line)
    if opened:
        raise ValueError(f"{page}: a block is not closed")


def commands(text: str) -> Iterator[str]:
    """The commands of a shell block, each on one line: continued lines joined, comments away.

    A command goes on over a line's end after a backslash and within quotes.
    """
    command = ""
    for line in text.splitlines():
        command += line
        if command.endswith("\\"):
            command = command[:-1]
            continue
        if _open_quote(command):
            command += "\n"
            continue
        if stripped := " ".join(_without_comment(command).split()):
            yield stripped
        command = ""
    if command:
        raise ValueError(f"a command does not end: {command!r}")


def _open_quote(command: str) -> bool:
    return _scan(command)[0] != ""


def _without_comment(command: str) -> str:
    return command[: _scan(command)[1]]


def _scan(command: str) -> tuple[str, int]:
    """The quote that is open at the end, and where a comment begins."""
    quote, escaped, before = "", False, " "
    for position, character in enumerate(command):
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and before.isspace():
            return "", position
        before = character
    return quote, len(command)


def documented(page: str, start: str) -> str:
    """The one command of a page that starts so."""
    found = [
        command
        for block in blocks(page)
        if block.language in SHELL
        for command in commands(block.text)
        if command.startswith(start)
    ]
    assert len(found) == 1, f"{page}: {len(found)} commands start with {start!r}"
    return found[0]


def documented_python(page: str, containing: str) -> str:
    """The one Python block of a page that contains a text."""
    found = [block.text for block in blocks(page) if block.language == "python" and containing in block.text]
    assert len(found) == 1, f"{page}: {len(found)} Python blocks contain {containing!r}"
    return found[0]
