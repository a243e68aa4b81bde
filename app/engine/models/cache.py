"""A folder of made models: each is made once, whole or not at all, and checked when it is used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

Progress = Callable[[str], object]

MANIFEST = "manifest.json"
# Longer than making any embedded model takes on a slow machine.
LOCK_TIMEOUT_S = 600


def default_cache() -> Path:
    """`PROMISESERVE_CACHE`, else a folder of the user's."""
    return Path(os.environ.get("PROMISESERVE_CACHE", Path.home() / ".cache" / "promiseserve"))


def made_once(name: str, make: Callable[[Path, Progress], None], cache: Path, progress: Progress) -> Path:
    """The model's folder. Of several processes that ask at once, one makes it and the others wait."""
    folder = cache / name
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock", timeout=LOCK_TIMEOUT_S):
        if not whole(folder):
            started_s = time.monotonic()
            progress(f"Preparing {name} (once) in {folder}")
            _make(folder, make, progress)
            progress(f"Prepared {name} in {time.monotonic() - started_s:.0f} s")
    return folder


def whole(folder: Path) -> bool:
    """True when every file has the hash that was noted when the folder was made."""
    try:
        expected = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return bool(expected) and expected == _hashes(folder)


def _make(folder: Path, make: Callable[[Path, Progress], None], progress: Progress) -> None:
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        make(workshop, progress)
        (workshop / MANIFEST).write_text(json.dumps(_hashes(workshop), indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        workshop.chmod(0o755)
        workshop.rename(folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    return {path.name: sha256(path) for path in files}


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
