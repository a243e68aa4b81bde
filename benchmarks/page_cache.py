"""Files out of the page cache, as after the start of a machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def evict(paths: Iterable[Path]) -> None:
    """Files, and all files of folders. What a process has mapped stays; so does what was not yet written."""
    for file in _files(paths):
        # A file may go, or be another user's, while others are read.
        with contextlib.suppress(OSError):
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from (Path(folder) / name for folder, _, names in os.walk(path) for name in names)
        else:
            yield path
