"""Counts what a request uses, from the engine's own outputs: nothing is decoded twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from app.engine.guard import current_run
from app.engine.leases import Run

# Below this many requests nobody waits for the processor: each token goes out as it is made.
CROWD = 8


class MeteredEngine(AsyncLLM):
    """vLLM's engine; each generation and each embedding counts for the run that asked for it, and has its
    class's priority: the body's own is the client's wish, what it may have the scheduler has decided.

    In a crowd the tokens of `coalesce_s` go out together, the first and the last one at once: what a token
    costs on its way to the client (JSON, HTTP, two proxies) is then paid once for several.
    """

    coalesce_s = 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Of requests whose tokens are being joined, by vLLM's id.
        self._joining: dict[str, asyncio.Event] = {}
        self._flush: asyncio.TimerHandle | None = None

    @property
    def dead_error(self) -> BaseException:
        """vLLM asks for it, and raises it, where a request comes to an engine that has died already."""
        if (run := current_run.get()) is not None:
            run.orphaned = True
        return super().dead_error

    def has_finished(self, request_id: str) -> None:
        """Its last token has been made."""
        if (joining := self._joining.get(request_id)) is not None:
            joining.set()

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        run = current_run.get()
        if run is None:
            async for output in super().generate(prompt, sampling_params, request_id, **options):
                yield output
            return
        options["priority"] = run.priority
        whole = sampling_params.output_kind is RequestOutputKind.FINAL_ONLY
        if whole and sampling_params.n == 1:
            # The engine would be silent until the end, and nobody would know when the first token came.
            sampling_params.output_kind = RequestOutputKind.CUMULATIVE
        meter = _Meter(run, sampling_params.output_kind)
        try:
            async for output in super().generate(prompt, sampling_params, request_id, **options):
                meter.add(output)
                if run.withheld:
                    return
                if output.finished or not whole:
                    yield output
                if self.coalesce_s and not output.finished and run.crowd >= CROWD:
                    await self._join(request_id)
        except EngineDeadError:
            run.orphaned = True
            raise

    async def encode(
        self, prompt: Any, pooling_params: PoolingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[PoolingRequestOutput, None]:
        run = current_run.get()
        if run is None:
            async for output in super().encode(prompt, pooling_params, request_id, **options):
                yield output
            return
        options["priority"] = run.priority
        try:
            async for output in super().encode(prompt, pooling_params, request_id, **options):
                # One output an input, at its end.
                run.metered.prompt_tokens += len(output.prompt_token_ids)
                yield output
        except EngineDeadError:
            run.orphaned = True
            raise

    async def _join(self, request_id: str) -> None:
        """Meanwhile vLLM's collector joins what comes.

        All requests' chunks leave at the same time: on their way each process is woken once for many.
        """
        joining = self._joining[request_id] = asyncio.Event()
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(self.coalesce_s, self._let_all_out)
        try:
            await joining.wait()
        finally:
            del self._joining[request_id]

    def _let_all_out(self) -> None:
        self._flush = None
        for joining in self._joining.values():
            joining.set()


class _Meter:
    """Adds one generation's outputs to a run; a request may have several generations."""

    def __init__(self, run: Run, kind: RequestOutputKind) -> None:
        self._run = run
        self._kind = kind
        self._counted: dict[int, int] = {}
        self._prompt_counted = False

    def add(self, output: RequestOutput) -> None:
        metered = self._run.metered
        if not self._prompt_counted and output.prompt_token_ids is not None:
            metered.prompt_tokens += len(output.prompt_token_ids)
            self._prompt_counted = True
        for completion in output.outputs:
            tokens = len(completion.token_ids)
            # Several whole answers at once come at their end, which says nothing of their first tokens.
            if tokens and self._kind is not RequestOutputKind.FINAL_ONLY:
                self._run.tokens()
            before = 0 if self._kind is RequestOutputKind.DELTA else self._counted.get(completion.index, 0)
            metered.output_tokens += tokens - before
            self._counted[completion.index] = tokens
