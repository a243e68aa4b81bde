"""`python -m app.engine.models SOURCE` prints the model's folder; progress goes to stderr."""

from __future__ import annotations

import argparse
import functools
import sys

from app.engine.models import EMBEDDED, prepare


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m app.engine.models", description=__doc__)
    parser.add_argument("source", help=f"{', '.join(EMBEDDED)}, a folder or a Hugging Face id")
    parser.add_argument("--verify", action="store_true", help="compare every cached file's SHA-256")
    arguments = parser.parse_args()
    progress = functools.partial(print, file=sys.stderr, flush=True)
    try:
        print(prepare(arguments.source, verify=arguments.verify, progress=progress))
    except (OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
