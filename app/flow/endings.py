"""Every ticket's one end: counted by outcome, and told to whoever records it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from app.flow.classes import budget_s, deadline_s
from app.flow.config import FlowConfig
from app.flow.leases import Held
from app.flow.outcome import Outcome
from app.flow.ticket import Ticket, Usage


class Ended(NamedTuple):
    """How one ticket ended. Times in seconds from its arrival; None where it did not come so far."""

    outcome: Outcome
    # Seconds since the epoch.
    at_s: float
    # Empty for a lease that was adopted after a restart: nothing else is known of it then.
    class_name: str = ""
    tenant: str = ""
    operation: str = ""
    total_s: float = 0.0
    ttft_s: float | None = None
    predicted_ttft_s: float | None = None
    ttft_budget_s: float = math.inf
    deadline_s: float = math.inf
    usage: Usage | None = None
    # Given at a time, each with its part of the tokens.
    answers: int = 1

    @property
    def tpot_s(self) -> float | None:
        """Mean time per output token after the first."""
        return None if self.usage is None else self.usage.tpot_s(self.answers)


class Endings:
    """Counts, and calls `on_end` with each; without it nothing is made of an end but its count."""

    def __init__(self, config: FlowConfig, on_end: Callable[[Ended], None] | None) -> None:
        self._classes = config.classes
        self._on_end = on_end
        self.counts: Counter[Outcome] = Counter()

    def without_lease(self, outcome: Outcome, ticket: Ticket, rank: int, now_s: float) -> None:
        self.counts[outcome] += 1
        if self._on_end is not None:
            self._on_end(self._ended(outcome, ticket, rank, now_s))

    def of_lease(self, outcome: Outcome, held: Held, usage: Usage | None, now_s: float) -> None:
        self.counts[outcome] += 1
        if self._on_end is None:
            return
        entry = held.entry
        if entry is None:
            self._on_end(Ended(outcome, now_s, usage=usage))
            return
        ttft_s = None if usage is None else usage.ttft_s
        if ttft_s is None and held.first_token_s is not None:
            ttft_s = held.first_token_s - entry.ticket.arrived_s
        predicted_s = entry.predicted_ttft_s
        self._on_end(self._ended(outcome, entry.ticket, entry.rank, now_s, ttft_s, predicted_s, usage))

    def _ended(
        self,
        outcome: Outcome,
        ticket: Ticket,
        rank: int,
        now_s: float,
        ttft_s: float | None = None,
        predicted_ttft_s: float | None = None,
        usage: Usage | None = None,
    ) -> Ended:
        policy = self._classes[rank]
        return Ended(
            outcome,
            now_s,
            policy.name,
            ticket.tenant,
            ticket.operation,
            now_s - ticket.arrived_s,
            ttft_s,
            predicted_ttft_s,
            budget_s(policy, ticket),
            deadline_s(policy, ticket),
            usage,
            ticket.answers,
        )
