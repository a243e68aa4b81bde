"""`python -m app.engine.models SOURCE` prepares a model and prints its folder."""

from __future__ import annotations

import sys

from app.engine.models import prepare


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if len(sys.argv) != 2:
    sys.exit("usage: python -m app.engine.models SOURCE")
try:
    print(prepare(sys.argv[1], progress=_say))
except ValueError as error:
    sys.exit(str(error))
