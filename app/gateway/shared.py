"""One look for everybody who looks at the same time."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Calls `look` at most once in `keep_s`, whoever asks and however often; without askers never."""

    def __init__(
        self, look: Callable[[], Coroutine[Any, Any, T]], keep_s: float, clock: Callable[[], float]
    ) -> None:
        self._look = look
        self._keep_s = keep_s
        self._clock = clock
        self._begun_s = 0.0
        self._looking: asyncio.Task[T] | None = None
        self._newest: T | None = None

    async def get(self) -> T:
        """Waits for what is at most `keep_s` old. A look that fails fails for all who wait for it; an asker
        that goes away does not end it for the others."""
        return await asyncio.shield(self._current())

    def newest(self) -> T | None:
        """What the last look that succeeded has seen, None before the first. Never waits, but has the next
        look begin when it is due."""
        self._current()
        return self._newest

    def _current(self) -> asyncio.Task[T]:
        looking, now_s = self._looking, self._clock()
        if looking is None or (looking.done() and now_s - self._begun_s >= self._keep_s):
            self._begun_s = now_s
            # In a context of its own: within a request's, Serve ends its calls when that request's client
            # leaves, and two calls at a time would share an id, for which its router never finds the second.
            looking = asyncio.get_running_loop().create_task(self._look(), context=contextvars.Context())
            self._looking = looking
            looking.add_done_callback(self._keep)
        return looking

    def _keep(self, looking: asyncio.Task[T]) -> None:
        if not looking.cancelled() and looking.exception() is None:
            self._newest = looking.result()
