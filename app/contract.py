"""What crosses between gateway, scheduler and engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from app.flow.outcome import Outcome
from app.flow.ticket import Ticket

# Headers of an engine's private port (lower case, as ASGI gives them).
SECRET_HEADER = "x-engine-secret"
LEASE_HEADER = "x-engine-lease"

# What a lease may run: the closed list of both doors, the gateway's and an engine's.
LEASED_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
    }
)


@dataclass(frozen=True, slots=True)
class EnginePort:
    """Where an engine's private port listens, and what opens it."""

    replica_id: str
    host: str
    port: int
    secret: str = field(repr=False)

    def url(self, path: str) -> str:
        return f"http://{self.host}:{self.port}{path}"


@dataclass(frozen=True, slots=True)
class Grant:
    """A place on an engine."""

    engine: EnginePort
    queue_wait_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """No place; `retry_after_s` says when one is expected, None that no time can be named."""

    outcome: Outcome
    retry_after_s: int | None


@dataclass(slots=True)
class Usage:
    """What a request cost; tokens, and seconds from its arrival at the engine to its first token."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    ttft_s: float | None = None


@dataclass(frozen=True, slots=True)
class SchedulerView:
    """The scheduler's state for readiness and for the metrics page (`metrics`: Prometheus text)."""

    replicas_ready: int
    queued: int
    in_flight: int
    metrics: str
    engines: tuple[EnginePort, ...]


class ControlPlane(Protocol):
    """What a gateway asks of the scheduler and of engine replicas: Serve's handles, or a test's fake."""

    async def acquire(self, ticket: Ticket) -> Grant | Refusal | None:
        """Waits for a place; None when the ticket was closed meanwhile.

        Raises ConnectionError when the scheduler can't be reached.
        """

    async def close(self, ticket_id: str, outcome: Outcome, output_tokens: int) -> None:
        """The ticket has ended, queued or running."""

    async def hold(self, replica_id: str, ticket_id: str) -> Usage:
        """The open call of a running request. Raises ConnectionError when the replica dies."""

    async def replica_unroutable(self, replica_id: str) -> None:
        """A call could not reach the replica: it is dead, or Serve is stopping or starting it."""

    async def view(self) -> SchedulerView:
        """Raises ConnectionError when the scheduler can't be reached."""
