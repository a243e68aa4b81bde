"""What may be told of an accident: never a value, a prompt, a key or a path."""

from __future__ import annotations

import re
import traceback

# An absolute path of two parts or more; not the path of a URL.
_PATH = re.compile(r"(?<![\w:/.<])/(?:[\w.+@-]+/)+[\w.+@-]*")
_TRACE = re.compile(r"Traceback \(most recent call last\)|^\s*File \"", re.MULTILINE)


def without_paths(message: str) -> str:
    """A message of another program's, for a client: no paths, and nothing where it is a trace."""
    if _TRACE.search(message):
        return "The request could not be processed."
    return _PATH.sub("[path]", message)


def where(error: BaseException) -> str:
    """An unexpected error for the log: its type and the functions it went through.

    Not its message, which may quote a request.
    """
    frames = traceback.extract_tb(error.__traceback__)
    steps = " > ".join(f"{frame.name}:{frame.lineno}" for frame in frames[-8:])
    return f"{type(error).__name__} in {steps}"
