"""`app config-reference`: all that can be set, from the typed model itself."""

from __future__ import annotations

import argparse

from app.commands import Subparsers
from app.reference import reference


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("config-reference", help="print docs/configuration.md from the model")
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    print(reference(), end="")
    return 0
