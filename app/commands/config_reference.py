"""`app config-reference`: all that can be set, from the typed model itself."""

from __future__ import annotations

import argparse

from app.reference import reference


def add_arguments(_: argparse.ArgumentParser) -> None:
    """It has none."""


def run(_: argparse.Namespace) -> int:
    print(reference(), end="")
    return 0
