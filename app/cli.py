"""Work with a running application: each subcommand is a module under `app.commands`."""

from __future__ import annotations

from collections.abc import Sequence

from app import command_line

SUMMARY = "Work with a running application."
COMMANDS = {
    "chat": "talk to the model; an empty line or Ctrl-D ends it",
    "top": "watch queue, promises, engines and tenants; Ctrl-C ends it",
    "config-reference": "print docs/configuration.md from the model",
    "validate": "measure a running application against its promises",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of one subcommand."""
    return command_line.run("app", SUMMARY, COMMANDS, argv)
