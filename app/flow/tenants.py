"""What each tenant has in the system, and its rate limits."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.flow.config import FlowConfig, TenantPolicy
from app.flow.estimate import RunningMean, RunningQuantile
from app.flow.outcome import Outcome
from app.flow.ticket import RateLimit, Ticket

if TYPE_CHECKING:
    from app.flow.fairness import FairOrder, TenantFlow

# The share of outputs that the deadline check assumes not to be exceeded.
OUTPUT_QUANTILE = 0.8


class TokenBucket:
    """Refills continuously to one minute's worth."""

    __slots__ = ("_at_s", "_level", "per_minute")

    def __init__(self, per_minute: int, now_s: float) -> None:
        self.per_minute = per_minute
        self._level = float(per_minute)
        self._at_s = now_s

    def level(self, now_s: float) -> float:
        self._level = min(
            self.per_minute, self._level + max(0.0, now_s - self._at_s) * self.per_minute / 60.0
        )
        # Also where the clock was set back: else nothing is refilled until it is there again.
        self._at_s = now_s
        return self._level

    def take(self, amount: float, now_s: float) -> None:
        """A negative amount gives back. The level may fall below zero: a debt that time pays."""
        self._level = min(self.per_minute, self.level(now_s) - amount)

    def wait_s(self, amount: float, now_s: float) -> float:
        """Until `amount`, or a full bucket where that is less, is there."""
        missing = min(amount, self.per_minute) - self.level(now_s)
        return max(0.0, missing * 60.0 / self.per_minute)


@dataclass(slots=True)
class OutputLength:
    """Mean and high quantile of the outputs of one tenant in one bucket of bounds."""

    mean: RunningMean
    high: RunningQuantile


class Account:
    """One tenant. Counters are of its tickets that are queued, and of the answers under its leases."""

    __slots__ = (
        "name",
        "outputs",
        "parked",
        "policy",
        "queued",
        "requests",
        "running",
        "size_bytes",
        "tokens",
    )

    def __init__(self, name: str, policy: TenantPolicy, now_s: float) -> None:
        self.name = name
        self.policy = policy
        self.queued = self.running = self.size_bytes = 0
        # Flows that wait for a running request of this tenant to end.
        self.parked: dict[FairOrder, TenantFlow] = {}
        self.outputs: dict[int, OutputLength] = {}
        self.requests = _bucket(policy.requests_per_minute, now_s)
        self.tokens = _bucket(policy.tokens_per_minute, now_s)

    @property
    def idle(self) -> bool:
        return self.queued == 0 and self.running == 0

    def forgettable(self, now_s: float) -> bool:
        """Idle, and nothing is missing in its buckets, which would be full again."""
        buckets = (self.requests, self.tokens)
        return self.idle and all(one is None or not one.wait_s(one.per_minute, now_s) for one in buckets)

    @property
    def at_cap(self) -> bool:
        return self.running >= self.policy.max_running

    def unpark(self) -> None:
        """One of its requests has ended: its flows stand in their orders again."""
        parked, self.parked = self.parked, {}
        for order, flow in parked.items():
            order.unpark(flow)

    def over_cap(self, ticket: Ticket) -> Outcome | None:
        if self.queued >= self.policy.max_queued:
            return Outcome.REJECTED_TENANT_QUEUED
        if self.size_bytes + ticket.size_bytes > self.policy.max_bytes:
            return Outcome.REJECTED_TENANT_BYTES
        return None

    def over_rate(self, tokens: int, now_s: float) -> tuple[Outcome, float] | None:
        """Which limit refuses a ticket that takes so many tokens, and for how long."""
        if self.requests is not None and (wait_s := self.requests.wait_s(1, now_s)) > 0:
            return Outcome.REJECTED_REQUEST_RATE, wait_s
        if self.tokens is not None and (wait_s := self.tokens.wait_s(tokens, now_s)) > 0:
            return Outcome.REJECTED_TOKEN_RATE, wait_s
        return None

    def take_rate(self, ticket: Ticket, tokens: int, now_s: float) -> None:
        if self.requests is not None and not ticket.moved:
            self.requests.take(1, now_s)
        if self.tokens is not None:
            self.tokens.take(tokens, now_s)

    def return_rate(self, tokens: int, now_s: float) -> None:
        """It never reached an engine: its tokens come back, not that it has asked."""
        if self.tokens is not None:
            self.tokens.take(-tokens, now_s)

    def true_up(self, taken: int, used: int, now_s: float) -> None:
        """Replace the tokens that it took by those that it has used."""
        if self.tokens is not None:
            self.tokens.take(used - taken, now_s)

    def rate_limits(self, now_s: float) -> tuple[RateLimit, RateLimit]:
        """Requests, tokens."""
        return _rate_limit(self.requests, now_s), _rate_limit(self.tokens, now_s)


def used_tokens(ticket: Ticket, prompt_tokens: int, output_tokens: int) -> int:
    """What it should have taken of its tenant's tokens a minute, as the engine counted it; where that has
    counted no prompt (the request came to nothing, or needed no model), it is the gateway's count."""
    return output_tokens + (0 if ticket.moved else prompt_tokens or ticket.prompt_tokens)


def _bucket(per_minute: int | None, now_s: float) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket(per_minute, now_s)


def _rate_limit(bucket: TokenBucket | None, now_s: float) -> RateLimit:
    if bucket is None:
        return RateLimit(None, None, 0.0)
    remaining = max(0, int(bucket.level(now_s)))
    return RateLimit(bucket.per_minute, remaining, bucket.wait_s(bucket.per_minute, now_s))


class Tenants:
    """Every tenant with something in the system, and the idle ones used last."""

    def __init__(self, config: FlowConfig) -> None:
        self._config = config
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        # Bodies that gateways keep, of all.
        self.size_bytes = 0

    def keep_bytes(self, account: Account, ticket: Ticket) -> None:
        account.size_bytes += ticket.size_bytes
        self.size_bytes += ticket.size_bytes

    def release_bytes(self, account: Account, ticket: Ticket) -> None:
        account.size_bytes -= ticket.size_bytes
        self.size_bytes -= ticket.size_bytes

    def __len__(self) -> int:
        return len(self._accounts)

    def get(self, name: str, now_s: float) -> Account:
        account = self._accounts.get(name)
        if account is None:
            policy = self._config.policy_of(name)
            account = self._accounts[name] = Account(name, policy, now_s)
            return account
        self._accounts.move_to_end(name)
        return account

    def busy(self) -> list[Account]:
        """Those with something in the system."""
        return [account for account in self._accounts.values() if not account.idle]

    def surplus(self, now_s: float) -> list[str]:
        """Forget the idle tenants that were seen longest ago, if there are too many; their names.

        Looks at as many as are too many, so that one call stays short.
        """
        excess = len(self._accounts) - self._config.fairness.max_tenants
        if excess <= 0:
            return []
        oldest = [name for name, _ in zip(self._accounts, range(excess), strict=False)]
        idle = [name for name in oldest if self._accounts[name].forgettable(now_s)]
        for name in idle:
            del self._accounts[name]
        return idle
