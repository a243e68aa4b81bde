"""What each rank of an engine holds, and how busy it is: asked of the workers, answered on the private port.

vLLM adds `RankProbe` to its workers (`worker_extension.py`). Nothing is counted before it is first asked.

Every rank must answer, and be waited for: vLLM 0.29 reads the ranks' answers in turn from queues that also
carry those to the engine's steps. It stops at the first that is an error or late, and takes what is left for
the answer to the next step.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil
from starlette.requests import Request
from starlette.responses import JSONResponse

logger = logging.getLogger(__name__)

# The workers answer between two steps, so asking holds the pipeline up: not more often than this.
KEEP_S = 1.0
# A step of a large prompt on a slow machine. The question itself goes on.
ASK_TIMEOUT_S = 30.0


class RankProbe:
    """Methods that every worker gets; `rank`, `device` and `model_runner` are the worker's own."""

    rank_clock: _StepClock | None = None
    rank: int
    device: Any
    model_runner: Any

    def rank_state(self) -> dict[str, Any] | None:
        """`RankState` of app/validation/measured.py but for the replica; None where it can't be told."""
        try:
            state = self._of_process() if self.device.type == "cpu" else self._of_gpu()
        except Exception:
            logger.warning("Rank %d can't tell its state", self.rank, exc_info=True)
            return None
        return {"rank": self.rank, **state}

    def _of_process(self) -> dict[str, Any]:
        if self.rank_clock is None:
            self.rank_clock = _StepClock(self.model_runner)
        return {
            "device": f"CPU of {socket.gethostname()}",
            # Of pages that ranks share each counts its part: their sum is what the machine holds.
            "memory_bytes": psutil.Process().memory_full_info().pss,
            "device_bytes": psutil.virtual_memory().total,
            "busy_s": self.rank_clock.busy_s,
        }

    def _of_gpu(self) -> dict[str, Any]:
        import torch

        free_bytes, total_bytes = torch.cuda.mem_get_info(self.device)
        state = {
            "device": f"GPU {torch.cuda.get_device_properties(self.device).uuid} of {socket.gethostname()}",
            "memory_bytes": total_bytes - free_bytes,
            "device_bytes": total_bytes,
        }
        # By NVML, which some drivers and containers have without this figure, or not at all.
        try:
            return {**state, "utilisation": torch.cuda.utilization(self.device) / 100}
        except Exception:
            return state


class _StepClock:
    """CPU time of the thread that computes a rank's part of the steps.

    The clock on the wall would tell more of the others: ranks that wait for another stage spin, and take the
    processor from the one that works (eight on two cores: an imbalance of 91 % instead of 10 %).
    """

    def __init__(self, runner: Any) -> None:
        self.busy_s = 0.0
        for name in ("execute_model", "sample_tokens"):
            setattr(runner, name, self._timed(getattr(runner, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            started_s = time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                self.busy_s += time.thread_time() - started_s

        return run


class RankStates:
    """Answers for all ranks of one engine; asks them once for whoever asks within a second."""

    def __init__(self, engine: Any, timeout_s: float = ASK_TIMEOUT_S) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        # The last question, whether it is answered or not: never two at a time.
        self._asking: asyncio.Task[list[dict[str, Any]]] | None = None
        self._answered_s = 0.0

    async def get(self) -> list[dict[str, Any]]:
        """Without the ranks that can't tell. Raises TimeoutError while some rank is busy with a step."""
        if self._asking is None or (self._asking.done() and time.monotonic() - self._answered_s >= KEEP_S):
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        return await asyncio.wait_for(asyncio.shield(self._asking), self._timeout_s)

    async def _ask(self) -> list[dict[str, Any]]:
        try:
            states = await self._engine.collective_rpc("rank_state")
            return [state for state in states if state is not None]
        finally:
            self._answered_s = time.monotonic()

    async def answer(self, _: Request) -> JSONResponse:
        """For `GET /ranks`."""
        return JSONResponse({"ranks": await self.get()})
