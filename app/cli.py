"""Work with a running application: each subcommand is a module under `app.commands`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from app.commands import chat, config_reference, top, validate
from app.config_file import ConfigFileError

# As argparse exits on a bad command line.
BAD_INPUT = 2
NO_SERVER = 1
# As shells count a command that Ctrl-C ended.
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; bad input is a message on stderr and status 2, no server to talk to status 1."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (chat, top, config_reference, validate):
        command.add_parser(subparsers)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except ConfigFileError as error:
        return _fail(BAD_INPUT, error.lines)
    except ConnectionError as error:
        return _fail(NO_SERVER, [str(error)])
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError) as error:
        return _fail(BAD_INPUT, [f"app: {error}"])
    return status


def _fail(status: int, lines: Sequence[str]) -> int:
    print("\n".join(lines), file=sys.stderr)
    return status
