"""The command line: each subcommand is a module under `placement.commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from app.config_file import ConfigFileError
from placement.commands import check, claims, fit, plan, show, simulate, validate

# As argparse exits on a bad command line.
BAD_INPUT = 2
NO_CLUSTER = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; bad input is a message on stderr and status 2, a missing cluster status 1."""
    parser = argparse.ArgumentParser(prog="placement", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (plan, check, validate, claims, fit, simulate, show):
        command.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except ConfigFileError as error:
        return _fail(BAD_INPUT, error.lines)
    except ConnectionError as error:
        return _fail(NO_CLUSTER, [f"--address: {getattr(arguments, 'address', None)}: {error}"])
    except (ValueError, OSError) as error:
        return _fail(BAD_INPUT, [f"placement: {error}"])
    return status


def _fail(status: int, lines: Sequence[str]) -> int:
    print("\n".join(lines), file=sys.stderr)
    return status
