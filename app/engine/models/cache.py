"""A folder that is made once: whole or not at all, by one process at a time, and checked on each use."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model folder is made. A change of `version` makes it again."""

    name: str
    version: str
    # Writes the files into an empty folder.
    build: Callable[[Path, Progress], None]


def cache_root() -> Path:
    """The only reader of PROMISESERVE_CACHE."""
    return Path(os.environ.get("PROMISESERVE_CACHE") or Path.home() / ".cache" / "promiseserve")


def make_once(recipe: Recipe, root: Path, *, verify: bool, progress: Progress) -> Path:
    """The folder `root/<name>`, made unless it is there and whole."""
    folder = root / recipe.name
    if not problems(folder, recipe, verify=verify):
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root / f".{recipe.name}.lock", recipe, progress):
        # Another process may have made it while this one waited.
        found = problems(folder, recipe, verify=verify)
        if found:
            _make(folder, recipe, found, progress)
    return folder


def problems(folder: Path, recipe: Recipe, *, verify: bool) -> list[str]:
    """Why the folder can't be used: empty when it can. Sizes are compared, with `verify` hashes too."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        version, files = manifest["version"], manifest["files"]
    except FileNotFoundError:
        return [f"{folder} is not there yet"]
    except (ValueError, KeyError, TypeError):
        return [f"{folder / MANIFEST} is damaged"]
    if version != recipe.version:
        return [f"{folder} was made by version {version!r}, this is {recipe.version!r}"]
    return [
        problem
        for name, expected in files.items()
        if (problem := _file_problem(folder / name, expected, verify=verify))
    ]


def _file_problem(path: Path, expected: dict[str, object], *, verify: bool) -> str | None:
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != expected["bytes"]:
        return f"{path} has {path.stat().st_size} bytes instead of {expected['bytes']}"
    if verify and sha256(path) != expected["sha256"]:
        return f"{path} has another SHA-256 than when it was written"
    return None


def _make(folder: Path, recipe: Recipe, reasons: list[str], progress: Progress) -> None:
    progress(f"{recipe.name}: making it once ({'; '.join(reasons)})")
    started_s = time.monotonic()
    # Under the lock nobody else uses these names; a process that was killed may have left them.
    making, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("making", "old"))
    for leftover in (making, old):
        shutil.rmtree(leftover, ignore_errors=True)
    making.mkdir()
    recipe.build(making, progress)
    _write_manifest(making, recipe)
    if folder.exists():
        folder.rename(old)
    making.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    progress(f"{recipe.name}: ready in {folder} after {time.monotonic() - started_s:.0f} s")


def _write_manifest(folder: Path, recipe: Recipe) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in sorted(folder.iterdir())
    }
    manifest = {"name": recipe.name, "version": recipe.version, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


@contextmanager
def _lock(path: Path, recipe: Recipe, progress: Progress) -> Iterator[None]:
    """One process at a time. The kernel gives the lock back when its holder ends, however it ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"{recipe.name}: another process is making it, waiting")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sha256(path: Path) -> str:
    """Hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
