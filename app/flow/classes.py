"""Which class serves a ticket, and what that promises it."""

from __future__ import annotations

import math

from app.flow.config import ClassPolicy, FlowConfig, TenantPolicy
from app.flow.ticket import Ticket


class ClassIndex:
    """Which class serves a ticket, as an index, most urgent first."""

    def __init__(self, config: FlowConfig) -> None:
        self._ranks = {one.name: rank for rank, one in enumerate(config.classes)}
        default = self._ranks[config.default_class]
        self._by_priority = (max(default - 1, 0), default, min(default + 1, len(self._ranks) - 1))

    def of(self, ticket: Ticket, policy: TenantPolicy) -> int:
        """Asked for by name, else by priority; capped by the tenant's policy.

        A name that does not exist counts as none: the edge has refused it already.
        """
        rank = self._ranks.get(ticket.class_name)
        if rank is None:
            rank = self._by_priority[1 + (ticket.priority > 0) - (ticket.priority < 0)]
        return max(rank, self._ranks[policy.highest_class]) if policy.highest_class else rank


def budget_s(policy: ClassPolicy, ticket: Ticket) -> float:
    """Time to the first token that is promised: the class's, tightened by the request."""
    asked = ticket.ttft_budget_s
    return policy.ttft_budget_s if asked is None else min(asked, policy.ttft_budget_s)


def deadline_s(policy: ClassPolicy, ticket: Ticket) -> float:
    """Time to the last token that is promised; infinite without a promise."""
    asked = math.inf if ticket.deadline_s is None else ticket.deadline_s
    return asked if policy.deadline_s is None else min(asked, policy.deadline_s)
