"""An engine that does not start is given up, so that Serve starts another.

Nobody else would: vLLM 0.29 waits for its core and its workers for ever, Serve for its replica. A thread,
because the event loop stands still while the engine is built.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from app.descendants import kill_with_descendants

logger = logging.getLogger("ray.serve")


@contextlib.contextmanager
def bounded_start(timeout_s: float, end: Callable[[], None] = kill_with_descendants) -> Iterator[None]:
    """The start is the block: after `timeout_s` in it the process ends, by `end`."""
    over = threading.Event()

    def watch() -> None:
        if not over.wait(timeout_s):
            logger.error("The engine has not started in %g s (engine.start_timeout_s): it ends", timeout_s)
            end()

    threading.Thread(target=watch, daemon=True, name="start-watch").start()
    try:
        yield
    finally:
        over.set()
