"""What crosses between gateway, scheduler and engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from app.flow.outcome import Outcome
from app.flow.ticket import RateLimit, ReplicaReport, Ticket, Usage
from app.hosts import in_url
from app.status.view import StatusView

# Headers of the private ports, an engine's and, the secret, the scheduler's (lower case, as ASGI gives them).
SECRET_HEADER = "x-private-secret"
LEASE_HEADER = "x-engine-lease"
# vLLM's `priority` of the request: the rank of the class that is served, whatever the body asks for.
PRIORITY_HEADER = "x-engine-priority"

# With a ticket's id. DELETE: the scheduler takes a lease back from a request without a first token; GET: a
# gateway that has broken off an answer asks what it used.
LEASES_PATH = "/leases/"
# What each rank of an engine holds and how busy it is; also the gateway's path for all engines together.
RANKS_PATH = "/ranks"
# What a request is answered whose lease was taken back.
REVOKED_STATUS = 409
# What a request is answered whose engine died before it had said anything: it may run elsewhere.
ENGINE_DIED_STATUS = 502
# The engine's sign of life: 200, or 503 when its core is dead or makes no steps.
HEALTH_PATH = "/health"
# What a client reads of a failure in the engine, before its answer has begun or in its midst.
ENGINE_FAILED = "The engine failed on this request."

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
        return f"http://{in_url(self.host)}:{self.port}{path}"


@dataclass(frozen=True, slots=True)
class RateLimits:
    """A tenant's two limits, as they stand after the scheduler's answer."""

    requests: RateLimit
    tokens: RateLimit


@dataclass(frozen=True, slots=True)
class Grant:
    """A place on an engine."""

    engine: EnginePort
    queue_wait_s: float
    # The class that is served, and its rank: 0 is the most urgent.
    class_name: str = ""
    rank: int = 0
    # What was predicted on arrival.
    predicted_ttft_s: float | None = None
    rate_limits: RateLimits | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """No place; `retry_after_s` says when one is expected, None that coming back is no use."""

    outcome: Outcome
    retry_after_s: int | None
    predicted_wait_s: float | None = None
    rate_limits: RateLimits | None = None


# The scheduler's answer to a ticket, at once or when its turn has come.
Reply = Grant | Refusal


@dataclass(frozen=True, slots=True)
class Closing:
    """A ticket has ended, queued or running; `usage` None where the engine did not say what it used."""

    ticket_id: str
    outcome: Outcome
    usage: Usage | None = None


class FirstToken(NamedTuple):
    """An engine has begun to answer a ticket, at `at_s` since the epoch."""

    ticket_id: str
    at_s: float


@dataclass(frozen=True, slots=True)
class EngineReport:
    """An engine's sign of life: its state, where it listens, and how many tokens each lease has made."""

    state: ReplicaReport
    port: EnginePort
    output_tokens: dict[str, int]


@dataclass(frozen=True, slots=True)
class SchedulerAddress:
    """Where the scheduler that leads listens for gateways and engines, and what opens it."""

    host: str
    port: int
    secret: str = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://{in_url(self.host)}:{self.port}/"


@dataclass(slots=True)
class Metered:
    """What an engine counts of a request while it runs: tokens, and seconds since the epoch."""

    prompt_tokens: int = 0
    output_tokens: int = 0
    first_token_at_s: float | None = None
    last_token_at_s: float | None = None
    # The stream has ended with an error in its midst.
    failed: bool = False


@dataclass(frozen=True, slots=True)
class SchedulerView:
    """The scheduler's state for readiness, and its metrics as Prometheus text where they were asked for."""

    replicas_ready: int
    queued: int
    in_flight: int
    metrics: str
    engines: tuple[EnginePort, ...]
    # Without an engine it sleeps, and the next request wakes it.
    wakes: bool = False


class ControlPlane(Protocol):
    """What a gateway asks of the scheduler."""

    async def acquire(self, ticket: Ticket) -> Reply:
        """Waits for a place. Raises ConnectionError when the scheduler can't be reached, or has gone."""

    async def close(self, ticket_id: str, outcome: Outcome, usage: Usage | None) -> None:
        """The ticket has ended (see Closing): said before whatever is said next. Raises ConnectionError when
        the scheduler can't be reached; the successor of one that dies hears of it from the engines."""

    async def replica_gone(self, replica_id: str) -> None:
        """The replica's process has ended; its id does not come back."""

    async def replica_unroutable(self, replica_id: str) -> None:
        """A request could not reach the replica: it is stopping, it hangs, or its end has yet to be seen."""

    async def view(self, metrics: bool = True) -> SchedulerView:
        """Without `metrics` it costs little. Raises ConnectionError when the scheduler can't be reached."""

    async def status(self) -> StatusView:
        """For a person who looks; costs more than `view`. Raises ConnectionError likewise."""
