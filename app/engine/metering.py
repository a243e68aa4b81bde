"""Counts what a request uses, from the engine's own outputs: nothing is decoded twice."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from app.contract import Usage
from app.engine.guard import current_usage


class MeteredEngine(AsyncLLM):
    """vLLM's engine; each generation adds to the usage of the request that asked for it."""

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        usage = current_usage.get()
        outputs = super().generate(prompt, sampling_params, request_id, **options)
        if usage is None:
            async for output in outputs:
                yield output
            return
        started_s = time.monotonic()
        meter = _Meter(usage, deltas=sampling_params.output_kind is RequestOutputKind.DELTA)
        async for output in outputs:
            meter.add(output, time.monotonic() - started_s)
            yield output


class _Meter:
    """Adds one generation's outputs to a usage; a request may have several generations."""

    def __init__(self, usage: Usage, deltas: bool) -> None:
        self._usage = usage
        self._deltas = deltas
        self._counted: dict[int, int] = {}
        self._prompt_counted = False

    def add(self, output: RequestOutput, elapsed_s: float) -> None:
        if not self._prompt_counted and output.prompt_token_ids is not None:
            self._usage.prompt_tokens += len(output.prompt_token_ids)
            self._prompt_counted = True
        for completion in output.outputs:
            tokens = len(completion.token_ids)
            if tokens and self._usage.ttft_s is None:
                self._usage.ttft_s = elapsed_s
            before = 0 if self._deltas else self._counted.get(completion.index, 0)
            self._usage.output_tokens += tokens - before
            self._counted[completion.index] = tokens
