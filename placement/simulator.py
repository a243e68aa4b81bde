"""vLLM's scheduler in virtual time: which requests share a step, and when their tokens come out.

The rules are those of vLLM 0.29's V1 scheduler (v1/core/sched/scheduler.py):
1. A step has a budget of `max_batched_tokens`. Running requests take from it first: one token each when
   decoding, else the next chunk of the prompt, of at most `prompt_step_tokens`.
2. Then waiting requests are admitted in order while the budget, `max_running` and the KV cache allow; the
   whole prompt must fit into free blocks, even if only a chunk of it is computed now.
3. When a running request needs a block and none is free, the last by (priority, arrival) is preempted: it
   loses its cache, goes back to the head of the queue and is computed again.
4. With PP stages up to PP batches are in flight, and what arrives while a place is free takes it at once. A
   request whose token is being sampled is in one of them only; the chunks of one prompt may follow each other
   through the stages.
Between two events (arrival, end of a request, full cache) every step is alike: they are priced together.
"""

from __future__ import annotations

import heapq
from bisect import insort
from dataclasses import dataclass, field

from placement.memory import BLOCK_TOKENS
from placement.step_time import Batch, StepModel
from placement.workload import Ask, Workload

# A decoding run is priced anew at least this often, tokens: its context grows meanwhile. 0: every step.
LONGEST_JUMP = 256


@dataclass(slots=True, eq=False)
class _Request:
    ask: Ask
    order: int
    sent_s: float
    arrived_s: float
    known_tokens: int  # those of the prompt and those generated
    scheduled: int = 0  # tokens in the cache, those of steps in flight included
    blocks: int = 0  # of the cache, that hold them
    generated: int = 0
    in_flight: int = 0
    first_token_s: float = -1.0
    running: bool = False

    def __lt__(self, other: _Request) -> bool:
        return self.rank < other.rank

    @property
    def rank(self) -> tuple[int, float, int]:
        return (self.ask.priority, self.arrived_s, self.order)


@dataclass(frozen=True, slots=True)
class Served:
    """A finished request; seconds of virtual time, as its client sees them."""

    ask: Ask
    sent_s: float
    first_token_s: float
    finished_s: float

    @property
    def ttft_s(self) -> float:
        return self.first_token_s - self.sent_s

    @property
    def tpot_s(self) -> float:
        """(end to end - TTFT) / (output - 1), as vLLM's benchmark counts; 0 for a single token."""
        return (self.finished_s - self.first_token_s) / max(1, self.ask.output_tokens - 1)


@dataclass(slots=True)
class _Flight:
    finish_s: float
    parts: list[tuple[_Request, int]]
    batch: Batch


@dataclass(slots=True)
class Simulation:
    """One replica serving one workload."""

    steps: StepModel
    kv_tokens: int
    max_batched_tokens: int
    max_running: int
    # Of one prompt in a step; None: no bound.
    prompt_step_tokens: int | None = None
    now_s: float = 0.0
    served: list[Served] = field(default_factory=list)
    preemptions: int = 0
    _pending: list[tuple[float, int, float, Ask]] = field(default_factory=list)
    _waiting: list[_Request] = field(default_factory=list)
    _running: list[_Request] = field(default_factory=list)
    _flights: list[_Flight] = field(default_factory=list)
    _stage_free_s: list[float] = field(default_factory=list)
    _free_blocks: int = 0
    _next_ask: int = 0
    _first: int = 0
    _unfinished: int = 0  # of the first
    _workload: Workload | None = None

    def run(self, workload: Workload, first: int | None = None) -> list[Served]:
        """Serve the workload until all its requests have ended, or the `first` that are sent.

        ValueError for a request that can never fit into the KV cache.
        """
        self._workload = workload
        self._first = self._unfinished = len(workload.asks) if first is None else first
        self._free_blocks = self.kv_tokens // BLOCK_TOKENS
        self._stage_free_s = [0.0] * len(self.steps.layer_counts)
        for ask in workload.asks:
            if ask.prompt_tokens + ask.output_tokens > self._free_blocks * BLOCK_TOKENS:
                raise ValueError(
                    f"a request of {ask.prompt_tokens} + {ask.output_tokens} tokens exceeds the KV cache "
                    f"of {self.kv_tokens} tokens"
                )
        if workload.arrivals.concurrency is None:
            for time in workload.arrivals.times_s[: len(workload.asks)]:
                self._send(time)
        else:
            for number in range(min(workload.arrivals.concurrency, len(workload.asks))):
                self._send(number * workload.arrivals.apart_s)
        while self._unfinished:
            self._advance()
        return self.served

    def _send(self, time_s: float) -> None:
        assert self._workload is not None
        if self._next_ask >= len(self._workload.asks):
            return
        ask = self._workload.asks[self._next_ask]
        residual = self.steps.coefficients.residual
        edge_s = residual.request_fixed_ms / 1e3 + residual.request_per_token_us * ask.prompt_tokens / 1e6
        heapq.heappush(self._pending, (time_s + edge_s, self._next_ask, time_s, ask))
        self._next_ask += 1

    def _advance(self) -> None:
        self._take_arrivals()
        if len(self._flights) < len(self._stage_free_s):
            parts = self._schedule()
            if parts:
                self._launch(parts)
                return
        if self._flights:
            if self._arrives_before_landing():
                self.now_s = self._pending[0][0]
            elif not self._jump():
                self._land()
        elif self._pending:
            self.now_s = max(self.now_s, self._pending[0][0])
        else:
            raise RuntimeError("the simulated scheduler can neither run nor wait")

    def _arrives_before_landing(self) -> bool:
        """Into a pipeline with a place free: the request goes in now, not with the batch that lands next."""
        free = len(self._flights) < len(self._stage_free_s)
        return free and bool(self._pending) and self._pending[0][0] < self._flights[0].finish_s

    def _take_arrivals(self) -> None:
        while self._pending and self._pending[0][0] <= self.now_s:
            arrived, order, sent, ask = heapq.heappop(self._pending)
            insort(self._waiting, _Request(ask, order, sent, arrived, ask.prompt_tokens))

    def _schedule(self) -> list[tuple[_Request, int]]:
        budget = self.max_batched_tokens
        longest = self.prompt_step_tokens or budget
        parts: list[tuple[_Request, int]] = []
        preempted = False
        for request in list(self._running):
            need = min(request.known_tokens - request.scheduled, longest)
            if need <= 0 or not request.running:
                continue
            if need > budget:
                need = budget
                if not budget:
                    break
            while not self._grow(request, need):
                victim = self._preempt()
                preempted = True
                if victim is None or victim is request:
                    break
                budget += sum(tokens for other, tokens in parts if other is victim)
                parts = [part for part in parts if part[0] is not victim]
            else:
                parts.append((request, need))
                budget -= need
        if not preempted:
            self._admit(parts, budget)
        return parts

    def _admit(self, parts: list[tuple[_Request, int]], budget: int) -> None:
        while self._waiting and budget > 0 and len(self._running) < self.max_running:
            request = self._waiting[0]
            if -(-request.known_tokens // BLOCK_TOKENS) > self._free_blocks:
                return
            self._waiting.pop(0)
            self._grow(request, min(request.ask.cached_tokens, request.known_tokens - 1))
            need = min(request.known_tokens - request.scheduled, self.prompt_step_tokens or budget, budget)
            self._grow(request, need)
            self._running.append(request)
            request.running = True
            parts.append((request, need))
            budget -= need

    def _grow(self, request: _Request, tokens: int) -> bool:
        scheduled = request.scheduled + tokens
        blocks = -(-scheduled // BLOCK_TOKENS)
        if blocks - request.blocks > self._free_blocks:
            return False
        self._free_blocks -= blocks - request.blocks
        request.scheduled, request.blocks = scheduled, blocks
        return True

    def _preempt(self) -> _Request | None:
        idle = [request for request in self._running if not request.in_flight]
        if not idle:
            return None
        victim = max(idle)
        self._running.remove(victim)
        victim.running = False
        self._free_blocks += victim.blocks
        victim.scheduled = victim.blocks = 0
        self.preemptions += 1
        insort(self._waiting, victim)
        return victim

    def _launch(self, parts: list[tuple[_Request, int]]) -> None:
        batch = _batch(parts)
        time_s = self.now_s
        for stage, busy_us in enumerate(self.steps.stage_times_us(batch)):
            time_s = max(time_s, self._stage_free_s[stage]) + busy_us / 1e6
            self._stage_free_s[stage] = time_s
        for request, _ in parts:
            request.in_flight += 1
        self._flights.append(_Flight(time_s + self.steps.host_us(batch) / 1e6, parts, batch))

    def _land(self) -> None:
        flight = self._flights.pop(0)
        self.now_s = max(self.now_s, flight.finish_s)
        for request, _ in flight.parts:
            request.in_flight -= 1
            if request.scheduled == request.known_tokens and not request.in_flight:
                self._emit(request)

    def _emit(self, request: _Request) -> None:
        request.generated += 1
        request.known_tokens += 1
        if request.first_token_s < 0:
            request.first_token_s = self.now_s
        if request.generated >= request.ask.output_tokens:
            self._finish(request)

    def _finish(self, request: _Request) -> None:
        self._running.remove(request)
        self._free_blocks += request.blocks
        self._unfinished -= request.order < self._first
        self.served.append(Served(request.ask, request.sent_s, request.first_token_s, self.now_s))
        assert self._workload is not None
        if self._workload.arrivals.concurrency is not None:
            self._send(self.now_s)

    def _jump(self) -> bool:
        """Advance every batch in flight by several tokens at once, when nothing can interfere."""
        if not all(flight.batch.prefill_tokens == 0 for flight in self._flights):
            return False
        moving = sum(len(flight.parts) for flight in self._flights)
        if moving != len(self._running) or (self._waiting and self._could_admit()):
            return False
        rounds = min(r.ask.output_tokens - r.generated for r in self._running) - 1
        rounds = min(rounds, LONGEST_JUMP, (self._free_blocks - moving) * BLOCK_TOKENS // moving)
        if rounds < 1:
            return False
        cycle_s = self._cycle_s(rounds / 2)
        if self._pending:
            rounds = min(rounds, int((self._pending[0][0] - self._flights[0].finish_s) / cycle_s))
        if rounds < 1:
            return False
        for request in self._running:
            self._grow(request, rounds)
            request.generated += rounds
            request.known_tokens += rounds
        moved_s = rounds * cycle_s
        self.now_s += moved_s
        self._stage_free_s = [time + moved_s for time in self._stage_free_s]
        for flight in self._flights:
            flight.finish_s += moved_s
            flight.batch = _batch(flight.parts)
        return True

    def _could_admit(self) -> bool:
        room = len(self._running) < self.max_running
        return room and -(-self._waiting[0].known_tokens // BLOCK_TOKENS) <= self._free_blocks

    def _cycle_s(self, further_tokens: float) -> float:
        """Time in which every batch in flight yields a token: the longest way round or the busiest stage."""
        busy = [0.0] * len(self._stage_free_s)
        longest = 0.0
        for flight in self._flights:
            context = flight.batch.decode_context_tokens + further_tokens * len(flight.parts)
            count = len(flight.parts)
            batch = Batch(decode_sequences=count, decode_context_tokens=context, sampled=count)
            times = self.steps.stage_times_us(batch)
            busy = [total + time for total, time in zip(busy, times, strict=True)]
            longest = max(longest, sum(times) + self.steps.host_us(batch))
        return max(longest, *busy) / 1e6


def _batch(parts: list[tuple[_Request, int]]) -> Batch:
    """Totals of a step; `scheduled` already counts the step's own tokens."""
    tokens = sequences = context = decoding = sampled = 0
    pairs, decode_context = 0.0, 0.0
    for request, chunk in parts:
        after = request.scheduled
        sampled += after >= request.known_tokens
        if chunk == 1 and request.generated:
            decoding += 1
            decode_context += after
        else:
            tokens += chunk
            sequences += 1
            context += after
            pairs += chunk * (after - chunk + (chunk + 1) / 2)
    return Batch(tokens, sequences, pairs, context, decoding, decode_context, sampled)
