"""A model of one vLLM engine: continuous batching, chunked prefill, a KV cache that can run out.

One step decodes a token for every sequence that has its first one, and spends what is left of the token
budget on prompts, first come first served, on each as much as it needs or its share. Sequences finish by step
number, so a step costs a constant time here whatever the batch.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Protocol

from app.flow.ticket import EngineMetrics
from placement.simulation.noise import NoisyPace
from placement.simulation.workload import PREFIX_BLOCK_TOKENS, Request


class StepTime(Protocol):
    """How long one engine step takes."""

    def step_s(self, prefill_tokens: int, decoding: int, context_tokens: int) -> float: ...


@dataclass(frozen=True, slots=True)
class LinearStep:
    """Seconds a step = base + per prompt token + per decoding sequence + per token of context."""

    base_s: float
    prefill_token_s: float
    sequence_s: float
    context_token_s: float

    def step_s(self, prefill_tokens: int, decoding: int, context_tokens: int) -> float:
        return (
            self.base_s
            + self.prefill_token_s * prefill_tokens
            + self.sequence_s * decoding
            + self.context_token_s * context_tokens
        )


@dataclass(frozen=True, slots=True)
class EngineShape:
    """One engine: its step time and vLLM's limits."""

    step: StepTime
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    # Most tokens of one prompt in a step; None: no bound.
    prompt_step_tokens: int | None = None
    kv_capacity_tokens: int = 400_000


# Named engines of the command line. `gpu-like` is round numbers of the order of a 70B model on eight GPUs,
# for comparing policies, not for predicting one. `smollm2-cpu` follows the two published points of the
# embedded model on two cores: 25 tokens/s alone and 300 at batch 32.
ENGINES = {
    "gpu-like": EngineShape(LinearStep(0.020, 5e-5, 1e-4, 1.5e-8)),
    "smollm2-cpu": EngineShape(
        LinearStep(0.038, 1e-3, 2.15e-3, 0.0), max_num_seqs=32, kv_capacity_tokens=40_000
    ),
}


class Sequence:
    """A request inside the engine."""

    __slots__ = (
        "blocks_cached",
        "computed",
        "end_step",
        "first_token_s",
        "produced",
        "request",
        "start_step",
        "todo",
    )

    def __init__(self, request: Request) -> None:
        self.request = request
        # Prompt tokens still to compute, and tokens computed in all (also those computed again).
        self.todo = request.prompt_tokens
        self.computed = 0
        self.blocks_cached = False
        self.first_token_s: float | None = None
        # Tokens produced before the present stay in the batch, and the steps of this stay.
        self.produced = 0
        self.start_step = self.end_step = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What a step brought about."""

    first: list[Sequence]
    finished: list[Sequence]


class SimulatedEngine:
    """Runs step by step: `begin` says how long the next step takes, `end` what it did."""

    def __init__(self, shape: EngineShape) -> None:
        self.shape = shape
        self.waiting: deque[Sequence] = deque()
        self.sequences: dict[str, Sequence] = {}
        self.preemptions = 0
        self.wasted_tokens = 0
        self.steps = 0
        # As vLLM counts them: a prompt's tokens when its last one is computed.
        self.prompt_tokens = 0
        self._decoding: OrderedDict[str, Sequence] = OrderedDict()
        self._finish: list[tuple[int, int, Sequence]] = []
        self._prefilling: deque[Sequence] = deque()
        self._chunk: list[tuple[Sequence, int]] = []
        self._context = 0
        self._order = 0
        self._cache: OrderedDict[int, None] = OrderedDict()
        self._itl_s = 0.0
        self._step_s = 0.0

    def add(self, request: Request) -> None:
        sequence = self.sequences[request.request_id] = Sequence(request)
        self.waiting.append(sequence)

    def abort(self, request_id: str) -> None:
        """Drop a sequence; what it computed is wasted."""
        sequence = self.sequences.pop(request_id, None)
        if sequence is not None:
            self.wasted_tokens += sequence.computed
            self._remove(sequence)

    @property
    def busy(self) -> bool:
        return bool(self.sequences)

    def metrics(self) -> EngineMetrics:
        return EngineMetrics(
            running=len(self._decoding) + len(self._prefilling),
            waiting=len(self.waiting),
            kv_use=min(1.0, self._context / self.shape.kv_capacity_tokens),
            preemptions=self.preemptions,
            itl_s=self._itl_s if self._decoding else 0.0,
            kv_capacity_tokens=self.shape.kv_capacity_tokens,
            steps=self.steps,
            prompt_tokens=self.prompt_tokens,
        )

    def outputs(self) -> list[tuple[str, int]]:
        """Tokens produced so far, by request."""
        return [(id_, one.produced + self.steps - one.start_step) for id_, one in self._decoding.items()]

    def begin(self, pace: NoisyPace | None = None) -> float:
        """Schedule one step and return its length, which is that of the model unless there is a pace."""
        self._make_room()
        budget = self.shape.max_num_batched_tokens - len(self._decoding)
        self._chunk = []
        for sequence in self._prefilling:
            budget = self._schedule(sequence, budget)
        while budget > 0 and self.waiting and self._admits(self.waiting[0]):
            sequence = self.waiting.popleft()
            self._use_cache(sequence)
            self._prefilling.append(sequence)
            budget = self._schedule(sequence, budget)
        prefill = sum(tokens for _, tokens in self._chunk)
        step_s = self.shape.step.step_s(prefill, len(self._decoding), self._context)
        self._step_s = step_s if pace is None else pace.step_s(step_s)
        return self._step_s

    def end(self, now_s: float) -> Done:
        self.steps += 1
        if self._decoding:
            self._itl_s += 0.05 * (self._step_s - self._itl_s)
        self._context += len(self._decoding)
        finished = self._finished()
        first: list[Sequence] = []
        for sequence, tokens in self._chunk:
            if self.sequences.get(sequence.request.request_id) is sequence:
                self._computed(sequence, tokens, now_s, first, finished)
        return Done(first, finished)

    def _schedule(self, sequence: Sequence, budget: int) -> int:
        tokens = min(budget, sequence.todo, self.shape.prompt_step_tokens or budget)
        if tokens > 0:
            self._chunk.append((sequence, tokens))
        return budget - tokens

    def _admits(self, sequence: Sequence) -> bool:
        if len(self._decoding) + len(self._prefilling) >= self.shape.max_num_seqs:
            return False
        pending = sum(one.todo for one in self._prefilling)
        return self._context + pending + sequence.todo <= self.shape.kv_capacity_tokens

    def _use_cache(self, sequence: Sequence) -> None:
        if sequence.blocks_cached:
            return
        sequence.blocks_cached = True
        hits = 0
        for block in sequence.request.prefix_blocks:
            if block not in self._cache:
                break
            hits += 1
        saved = min(hits * PREFIX_BLOCK_TOKENS, sequence.todo - 1)
        sequence.todo -= saved
        self._context += saved
        for block in sequence.request.prefix_blocks:
            self._cache[block] = None
            self._cache.move_to_end(block)
        while len(self._cache) * PREFIX_BLOCK_TOKENS > self.shape.kv_capacity_tokens:
            self._cache.popitem(last=False)

    def _computed(
        self, sequence: Sequence, tokens: int, now_s: float, first: list[Sequence], finished: list[Sequence]
    ) -> None:
        sequence.todo -= tokens
        sequence.computed += tokens
        self._context += tokens
        if sequence.todo:
            return
        self._prefilling.remove(sequence)
        if sequence.first_token_s is None:
            sequence.first_token_s = now_s
            self.prompt_tokens += sequence.computed
            first.append(sequence)
        self._decoding[sequence.request.request_id] = sequence
        sequence.start_step = self.steps
        sequence.end_step = self.steps + sequence.request.output_tokens - sequence.produced - 1
        sequence.produced += 1
        self._order += 1
        if sequence.end_step <= self.steps:
            self._finish_one(sequence, finished)
        else:
            heapq.heappush(self._finish, (sequence.end_step, self._order, sequence))

    def _finished(self) -> list[Sequence]:
        finished: list[Sequence] = []
        while self._finish and self._finish[0][0] <= self.steps:
            end_step, _, sequence = heapq.heappop(self._finish)
            current = self._decoding.get(sequence.request.request_id) is sequence
            if current and sequence.end_step == end_step:
                self._finish_one(sequence, finished)
        return finished

    def _finish_one(self, sequence: Sequence, finished: list[Sequence]) -> None:
        sequence.computed += sequence.request.output_tokens
        del self.sequences[sequence.request.request_id]
        self._remove(sequence)
        finished.append(sequence)

    def _remove(self, sequence: Sequence) -> None:
        request = sequence.request
        if self._decoding.pop(request.request_id, None) is not None:
            self._context -= request.prompt_tokens + sequence.produced - 1 + self.steps - sequence.start_step
        elif sequence in self._prefilling:
            self._prefilling.remove(sequence)
            self._context -= request.prompt_tokens + max(0, sequence.produced) - sequence.todo
        else:
            self.waiting.remove(sequence)

    def _make_room(self) -> None:
        """Preempt the latest sequence until every other one can have its next token: recompute later."""
        while self._context + len(self._decoding) > self.shape.kv_capacity_tokens and len(self._decoding) > 1:
            request_id = next(reversed(self._decoding))
            sequence = self._decoding[request_id]
            done = sequence.produced + self.steps - sequence.start_step
            self._remove(sequence)
            self.preemptions += 1
            self.wasted_tokens += sequence.request.prompt_tokens + done - 1
            sequence.produced = done
            sequence.todo = sequence.request.prompt_tokens + done
            self.waiting.appendleft(sequence)
