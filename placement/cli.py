"""`python -m placement`: plan and simulate before anything starts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from placement.commands import simulate

COMMANDS = {"simulate": simulate}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m placement", description=__doc__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS.values():
        command.add_parser(subparsers)
    args = parser.parse_args(arguments)
    status: int = COMMANDS[args.command].run(args)
    return status
