"""The decision core: events and a time in, actions out.

It runs as machine code where a build of exactly these sources lies beside them (scripts/compile): after a
change of any of them, and with PROMISESERVE_INTERPRETED=1 in the environment, the sources themselves run.
"""

import hashlib
import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def build_folder() -> Path:
    """Where a build of the present sources for this Python belongs."""
    folder = Path(__file__).parent
    digest = hashlib.sha256(EXTENSION_SUFFIXES[0].encode())
    for source in sorted(folder.glob("*.py")):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return folder / "compiled" / digest.hexdigest()[:16]


_build = build_folder()
COMPILED = _build.is_dir() and os.environ.get("PROMISESERVE_INTERPRETED") != "1"
__path__[:0] = [str(_build)] if COMPILED else []
