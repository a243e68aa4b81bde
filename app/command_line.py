"""A command line of subcommands, each a module that is imported only when it is asked for.

`PACKAGE.commands.NAME` has `add_arguments(parser)` and `run(arguments) -> exit status`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from app.config_file import ConfigFileError

# As argparse exits on a bad command line.
BAD_INPUT = 2
NOBODY_ANSWERS = 1
# As shells count a command that Ctrl-C ended.
INTERRUPTED = 130


def run(package: str, description: str, commands: Mapping[str, str], argv: Sequence[str] | None) -> int:
    """Run the subcommand that `argv` (None: of the process) names; `commands` are their names and help.

    Bad input is a message on stderr and status 2, no server or cluster to talk to status 1.
    """
    arguments = _parse(package, description, commands, sys.argv[1:] if argv is None else argv)
    try:
        status: int = arguments.run(arguments)
    except ConfigFileError as error:
        return _fail(BAD_INPUT, str(error))
    except BrokenPipeError:
        # Whoever reads has enough, as `head`. Python would say so once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ConnectionError as error:
        return _fail(NOBODY_ANSWERS, str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError) as error:
        return _fail(BAD_INPUT, f"{package}: {error}")
    return status


def _parse(
    package: str, description: str, commands: Mapping[str, str], argv: Sequence[str]
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=description)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    # No option before it takes a value.
    chosen = next((word for word in argv if word in commands), None)
    for name, what in commands.items():
        command = subparsers.add_parser(name, help=what)
        if name == chosen:
            module = import_module(f"{package}.commands.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser.parse_args(argv)


def _fail(status: int, message: str) -> int:
    print(message, file=sys.stderr)
    return status
