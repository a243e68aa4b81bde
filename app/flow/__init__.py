"""The decision core: events and a time in, actions out.

It runs as machine code where a build of exactly these sources lies beside them (scripts/compile): after a
change of any of them, and with PROMISESERVE_INTERPRETED=1 in the environment, the sources themselves run.
"""

import hashlib
import os
import warnings
from importlib import import_module
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


def _use_build(folder: str) -> bool:
    """Whether there is one that this machine can load."""
    if os.environ.get("PROMISESERVE_INTERPRETED") == "1" or not os.path.isdir(folder):
        return False
    __path__.insert(0, folder)
    try:
        import_module("app.flow.core__mypyc")
    except ImportError as error:
        __path__.remove(folder)
        warnings.warn(f"The compiled decision core can't be loaded, its sources run: {error}", stacklevel=1)
        return False
    return True


COMPILED = _use_build(str(build_folder()))
