"""A heap of events between clients, the decision core and modelled engines. One seed, one result."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.flow.controller import FlowController
from app.flow.outcome import Outcome
from app.flow.ticket import Action, Granted, Refused, ReplicaReport, Revoke, Ticket, Usage
from placement.simulation.engine import EngineShape, SimulatedEngine
from placement.simulation.noise import Noise, NoisyPace
from placement.simulation.workload import Request

# The Scheduler's timer.
TICK_S = 0.1
# A request that is still running this long after the last arrival is a bug of the simulator.
MAX_TAIL_S = 3600.0
# Requests that a capacity is taken of.
SAMPLE = 2000


class Policy(Protocol):
    """What the flow controller and its peers have in common."""

    def submit(self, ticket: Ticket, now_s: float) -> list[Action]: ...
    def close(
        self, ticket_id: str, outcome: Outcome, now_s: float, usage: Usage | None = None
    ) -> list[Action]: ...
    def report(self, report: ReplicaReport, now_s: float) -> list[Action]: ...
    def replica_gone(self, replica_id: str, now_s: float) -> list[Action]: ...
    def first_tokens(self, news: Sequence[tuple[str, float]], now_s: float) -> list[Action]: ...
    def progress(self, ticket_id: str, output_tokens: int) -> None: ...
    def tick(self, now_s: float) -> list[Action]: ...


@dataclass(slots=True)
class Record:
    """What happened to one request; times from its arrival, in seconds. None: it did not get so far."""

    request: Request
    outcome: Outcome | None = None
    granted_s: float | None = None
    ttft_s: float | None = None
    finished_s: float | None = None
    predicted_ttft_s: float | None = None
    retry_after_s: int | None = None
    promised: bool = False
    revokes: int = 0
    # It is the return of a client that was refused.
    returned: bool = False

    @property
    def tpot_s(self) -> float | None:
        """(end to end - time to first token) / (output - 1); None for an output of one token."""
        if self.finished_s is None or self.ttft_s is None or self.request.output_tokens < 2:
            return None
        return (self.finished_s - self.ttft_s) / (self.request.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Setup:
    """The machines and the clients' manners."""

    engine: EngineShape
    replicas: int
    # How often each replica reports.
    report_s: float = 1.0
    # Clients that come back once, at the time that the refusal named.
    returns: bool = False
    # None: every step as the model says, and every word at once. The seed is the noise's alone.
    noise: Noise | None = None
    seed: str = ""


class Simulator:
    """Runs one workload under one policy."""

    def __init__(self, policy: Policy, setup: Setup) -> None:
        self._policy = policy
        self._setup = setup
        # Peers predict nothing.
        self._predicts = policy.predicted_ttft_s if isinstance(policy, FlowController) else None
        self._engines = {f"r{index}": SimulatedEngine(setup.engine) for index in range(setup.replicas)}
        noise, seed = setup.noise, setup.seed
        self._paces = {id_: NoisyPace(noise, f"{id_} {seed}") for id_ in self._engines} if noise else {}
        # How long a request and a word are under way, on average; None: at once.
        self._send_s = noise.send_s if noise else None
        self._word_s = noise.word_s if noise else None
        self._ways = random.Random(f"ways {seed}")
        self._stepping: set[str] = set()
        self._events: list[tuple[float, int, str, object]] = []
        self._number = 0
        self._open = 0
        self.records: dict[str, Record] = {}
        self.now_s = 0.0

    def run(self, requests: Sequence[Request]) -> list[Record]:
        """Every request's record, in order of arrival; returns of refused clients follow."""
        for request in requests:
            self._at(request.arrived_s, "arrive", request)
        for index, replica_id in enumerate(self._engines):
            self._at(index * self._setup.report_s / len(self._engines), "hear", replica_id)
            self._do(self._policy.report(self._report(replica_id), 0.0))
        self._at(TICK_S, "tick", None)
        self._open = len(requests)
        end_s = requests[-1].arrived_s + MAX_TAIL_S
        while self._open:
            self.now_s, _, kind, payload = heapq.heappop(self._events)
            if self.now_s > end_s:
                raise RuntimeError(f"{self._open} requests have no outcome after {MAX_TAIL_S} s")
            getattr(self, f"_{kind}")(payload)
        return list(self.records.values())

    @property
    def wasted_tokens(self) -> int:
        return sum(engine.wasted_tokens for engine in self._engines.values())

    @property
    def preemptions(self) -> int:
        return sum(engine.preemptions for engine in self._engines.values())

    def _at(self, at_s: float, kind: str, payload: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_s, self._number, kind, payload))

    def _arrive(self, request: Request) -> None:
        record = self.records[request.request_id] = Record(request)
        record.returned = request.request_id.endswith("'")
        actions = self._policy.submit(self._ticket(request), self.now_s)
        self._do(actions)
        if self._predicts is not None and record.outcome is None:
            record.predicted_ttft_s = self._predicts(request.request_id)

    def _ticket(self, request: Request) -> Ticket:
        # What requests state: the least power of two times 64 that holds the output.
        bound = 64 * 2 ** max(0, math.ceil(math.log2(request.output_tokens / 64)))
        return Ticket(
            ticket_id=request.request_id,
            priority=0,
            arrived_s=request.arrived_s,
            tenant=request.tenant,
            class_name=request.class_name,
            prompt_tokens=request.prompt_tokens,
            max_output_tokens=bound,
            prefix_blocks=request.prefix_blocks,
            session_id=request.session_id,
            size_bytes=4 * request.prompt_tokens,
            fingerprint=request.request_id.rstrip("'"),
            revocable=True,
        )

    def _tick(self, _: object) -> None:
        self._do(self._policy.tick(self.now_s))
        self._at(self.now_s + TICK_S, "tick", None)

    def _report(self, replica_id: object) -> ReplicaReport:
        engine = self._engines[str(replica_id)]
        live = frozenset(engine.sequences)
        return ReplicaReport(str(replica_id), live, metrics=engine.metrics())

    def _hear(self, replica_id: object) -> None:
        self._do(self._policy.report(self._report(replica_id), self.now_s))
        for request_id, tokens in self._engines[str(replica_id)].outputs():
            self._policy.progress(request_id, tokens)
        self._at(self.now_s + self._setup.report_s, "hear", replica_id)

    def _step(self, replica_id: object) -> None:
        engine = self._engines[str(replica_id)]
        self._stepping.discard(str(replica_id))
        done = engine.end(self.now_s)
        for sequence in done.first:
            self.records[sequence.request.request_id].ttft_s = self.now_s - sequence.request.arrived_s
        news = [(sequence.request.request_id, self.now_s) for sequence in done.first]
        self._under_way(self._word_s, "first_tokens", news)
        for sequence in done.finished:
            self._complete(sequence.request)
        self._wake(str(replica_id))

    def _under_way(self, mean_s: float | None, kind: str, payload: object) -> None:
        """It comes after a while, or at once."""
        if mean_s is None:
            getattr(self, f"_{kind}")(payload)
        else:
            self._at(self.now_s + self._ways.expovariate(1.0 / mean_s), kind, payload)

    def _first_tokens(self, news: Sequence[tuple[str, float]]) -> None:
        self._do(self._policy.first_tokens(news, self.now_s))

    def _complete(self, request: Request) -> None:
        record = self.records[request.request_id]
        record.outcome = Outcome.COMPLETED
        record.finished_s = self.now_s - request.arrived_s
        self._open -= 1
        self._under_way(self._word_s, "close", record)

    def _close(self, record: Record) -> None:
        request = record.request
        assert record.finished_s is not None
        decode_s = None if record.ttft_s is None else record.finished_s - record.ttft_s
        usage = Usage(request.prompt_tokens, request.output_tokens, record.ttft_s, decode_s)
        self._do(self._policy.close(request.request_id, Outcome.COMPLETED, self.now_s, usage))

    def _wake(self, replica_id: str) -> None:
        engine = self._engines[replica_id]
        if engine.busy and replica_id not in self._stepping:
            self._stepping.add(replica_id)
            self._at(self.now_s + engine.begin(self._paces.get(replica_id)), "step", replica_id)

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Granted):
                self._granted(action)
            elif isinstance(action, Refused):
                self._refused(action)
            else:
                self._revoked(action)

    def _revoked(self, action: Revoke) -> None:
        record = self.records[action.ticket_id]
        # An answer that has begun is not taken back: word of it is under way.
        if record.ttft_s is None:
            record.revokes += 1
            self._engines[action.replica_id].abort(action.ticket_id)

    def _granted(self, action: Granted) -> None:
        record = self.records[action.lease.ticket_id]
        # Else it is the place that it has.
        if record.ttft_s is not None:
            return
        record.granted_s = action.queue_wait_s
        self._under_way(self._send_s, "begin", (action.lease.replica_id, record, record.revokes))

    def _begin(self, sent: tuple[str, Record, int]) -> None:
        """The request has come to its engine, unless its lease was taken back on the way."""
        replica_id, record, revokes = sent
        if record.revokes == revokes:
            self._engines[replica_id].add(record.request)
            self._wake(replica_id)

    def _refused(self, action: Refused) -> None:
        record = self.records[action.ticket_id]
        record.outcome, record.promised = action.outcome, action.promised
        record.retry_after_s = action.retry_after_s
        self._open -= 1
        if self._setup.returns and not record.returned and action.retry_after_s is not None:
            self._return(record.request, self.now_s + action.retry_after_s)

    def _return(self, request: Request, at_s: float) -> None:
        again = Request(
            f"{request.request_id}'",
            at_s,
            request.prompt_tokens,
            request.output_tokens,
            request.tenant,
            request.class_name,
            request.prefix_blocks,
            request.session_id,
        )
        self._open += 1
        self._at(at_s, "arrive", again)


def capacity_per_s(engine: EngineShape, requests: Sequence[Request]) -> float:
    """Requests a second that one engine completes when it never lacks work: the middle half of a run."""
    simulated = SimulatedEngine(engine)
    for request in requests[:SAMPLE]:
        simulated.add(request)
    now_s, times = 0.0, []
    while simulated.busy:
        now_s += simulated.begin()
        times += [now_s] * len(simulated.end(now_s).finished)
    first, last = len(times) // 4, 3 * len(times) // 4
    span_s = times[last] - times[first]
    # Requests that are all alike end together.
    return (last - first) / span_s if span_s > 0 else len(times) / now_s
