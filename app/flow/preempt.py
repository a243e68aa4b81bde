"""Preempt and requeue: which lease gives its place to an urgent ticket that would be late.

Only a request without a first token can be taken back unseen: its client notices nothing but latency. The
latest grant of the least urgent class has the least work to lose.
"""

from __future__ import annotations

from app.flow.config import PreemptPolicy
from app.flow.leases import Held, LeaseTable
from app.flow.queue import Entry

# Of so many engines a place is tried.
MAX_VICTIMS = 4


def victims(leases: LeaseTable, policy: PreemptPolicy, rank: int, now_s: float) -> list[tuple[Held, Entry]]:
    """Leases that may be taken back for a ticket of class `rank`, the best first: one of an engine each,
    since what is in the way of one is in the way of its neighbours, and few."""
    found: dict[str, tuple[Held, Entry]] = {}
    if not policy.enabled or not any(leases.revocable):
        return []
    for held_by_id in reversed(leases.revocable[rank + 1 :]):
        for held in reversed(held_by_id.values()):
            if now_s - held.granted_s > policy.max_age_s or len(found) >= MAX_VICTIMS:
                break
            entry = held.entry
            if entry is not None and _may_lose(policy, entry, now_s):
                found.setdefault(held.lease.replica_id, (held, entry))
    return list(found.values())


def _may_lose(policy: PreemptPolicy, entry: Entry, now_s: float) -> bool:
    patient = entry.expires_s - now_s >= policy.min_slack_s
    return patient and entry.revokes < policy.max_revokes


def at_risk(policy: PreemptPolicy, entry: Entry, predicted_wait_s: float, now_s: float) -> bool:
    """Whether waiting would use up the share of its budget that is tolerated."""
    waited_s = now_s - entry.ticket.arrived_s
    return policy.enabled and waited_s + predicted_wait_s > policy.risk_share * entry.budget_s
