"""The command line: each subcommand is a module under `placement.commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from placement.commands import check, claims, fit, plan, validate


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; bad input is a message on stderr and status 2."""
    parser = argparse.ArgumentParser(prog="placement", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (plan, check, validate, claims, fit):
        command.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"placement: {error}", file=sys.stderr)
        return 2
    return status
