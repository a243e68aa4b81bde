"""`python -m benchmarks NAME`: each prints a table and writes the same as JSON on request."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import parity


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks")
    commands = parser.add_subparsers(required=True, dest="name")
    parity.add_arguments(commands.add_parser("parity", help="start and token gaps beside bare vLLM"))
    for command in commands.choices.values():
        command.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    figures = parity.run(options)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


sys.exit(main())
