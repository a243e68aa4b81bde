"""What first tokens and ends teach: errors of predictions, lengths of outputs, times on engines."""

from __future__ import annotations

import math

from app.flow.leases import Held, LeaseTable
from app.flow.load import LoadMeter
from app.flow.outcome import Outcome
from app.flow.predictor import Predictor
from app.flow.replicas import ReplicaPool
from app.flow.ticket import Usage


class Lessons:
    """Of leases, to the predictor and to the autoscaler's meter."""

    def __init__(self, pool: ReplicaPool, leases: LeaseTable, predictor: Predictor, meter: LoadMeter) -> None:
        self._pool = pool
        self._leases = leases
        self._predictor = predictor
        self._meter = meter

    def first_token(self, held: Held, at_s: float, now_s: float) -> None:
        """It came at `at_s`, and is heard of now."""
        entry = held.entry
        if entry is None:
            return
        waited_s = at_s - entry.ticket.arrived_s
        uncached = entry.ticket.prompt_tokens - held.cached_tokens
        self._meter.first_token(entry.rank, waited_s, uncached, now_s)
        # Of a pace that was assumed, nothing follows for the one that is known now; of an engine that was
        # taken back, nothing for the next.
        if entry.ticket.arrived_s < self._pool.pace.learnt_s or entry.revokes:
            return
        if entry.placed:
            self._predictor.first_token(None, entry.raw_ttft_s, at_s - held.granted_s)
        else:
            self._predictor.first_token(entry.rank, entry.raw_ttft_s, waited_s)

    def end(self, held: Held, outcome: Outcome, usage: Usage | None, now_s: float) -> None:
        """Only what was computed to its end teaches: a client that goes away says nothing of the engine, and
        neither does a question that it answers without its model."""
        if outcome is not Outcome.COMPLETED or (usage is not None and usage.nothing):
            return
        self._leases.completed(held, usage, now_s)
        if held.entry is None:
            return  # Adopted: nobody knows since when it runs.
        service_s = held.answers * (now_s - held.granted_s)
        self._predictor.served(service_s)
        self._meter.served(service_s)
        if usage is None:
            return
        self._predictor.output(held.entry.account, held.entry.ticket, usage.output_tokens)
        tpot_s = usage.tpot_s(held.answers)
        if tpot_s is not None:
            engine = held.replica
            self._meter.tpot(tpot_s, (engine.running - held.answers) / engine.limit.requests, now_s)
        # Not a time where an engine's arithmetic went wrong.
        if held.first_token_s is None and usage.ttft_s is not None and math.isfinite(usage.ttft_s):
            self.first_token(held, held.entry.ticket.arrived_s + usage.ttft_s, now_s)
