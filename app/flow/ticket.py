"""What goes into the queue and what comes out of it: values, without behaviour.

What is made for every request is a tuple: a frozen dataclass takes three times as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from app.flow.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that asks for a place on an engine."""

    ticket_id: str
    # Lower is more urgent, as in vLLM; it names a class where `class_name` is empty.
    priority: int
    # The first arrival: a ticket that is submitted again keeps its age. Seconds since the epoch.
    arrived_s: float
    # Who pays: from the API key, never from a header.
    tenant: str = "default"
    # The class asked for; a tenant's cap may lower it. Empty: from `priority`.
    class_name: str = ""
    prompt_tokens: int = 0
    # The bound that the client or the model sets; 0 when unknown.
    max_output_tokens: int = 0
    # Answers that the engine gives at the same time: the request takes as many places.
    answers: int = 1
    # Chained hashes of the prompt's blocks, first block first; salted by tenant where caches must not mix.
    prefix_blocks: tuple[int, ...] = ()
    # Requests of one session prefer one replica.
    session_id: str = ""
    # Promises asked for, in seconds from arrival; None: the class's own. A request can only tighten them.
    ttft_budget_s: float | None = None
    deadline_s: float | None = None
    size_bytes: int = 0
    # Equal for a request and its retry (a hash of the body); by it a promise is known again.
    fingerprint: str = ""
    # The adapter can abort this request before its first token and wait for another lease.
    revocable: bool = False
    # It was let in and is submitted anew, because its engine was lost before it had answered.
    moved: bool = False
    # The process that waits for the answer; when it dies nobody would use the lease. Empty: not known.
    caller: str = ""
    # What is asked for, by OpenTelemetry's names: `chat`, `text_completion`, `embeddings`. For figures only.
    operation: str = ""
    # The W3C trace context of the request; empty when it is not traced.
    traceparent: str = ""


class Usage(NamedTuple):
    """What a request took, as the engine counted it."""

    prompt_tokens: int
    output_tokens: int
    # From arrival to the first token; None where there was none.
    ttft_s: float | None = None
    # From the first token to the last; None where there was none.
    decode_s: float | None = None

    @property
    def nothing(self) -> bool:
        """The engine has answered without its model, as to count tokens."""
        return not self.prompt_tokens and not self.output_tokens

    def tpot_s(self, answers: int) -> float | None:
        """Mean time per output token after the first; of several answers each made its part of them."""
        if self.decode_s is None or self.output_tokens < 2 * answers:
            return None
        return self.decode_s / (self.output_tokens / answers - 1.0)


class Lease(NamedTuple):
    """The right to run one request on one replica; it carries the ticket's id."""

    ticket_id: str
    replica_id: str


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """What an engine says of its own state."""

    running: int
    waiting: int
    # Share of the KV cache in use, 0 to 1.
    kv_use: float
    # Requests that the engine itself preempted since it started.
    preemptions: int = 0
    # Mean time between two tokens of a stream over the last seconds; 0 when nothing ran.
    itl_s: float = 0.0
    # Size of the KV cache; 0 when unknown.
    kv_capacity_tokens: int = 0
    # Steps and prompt tokens computed since it started: vLLM's `iteration_tokens_total` (its count) and
    # `prompt_tokens_total`; 0 when unknown.
    steps: int = 0
    prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """What an engine replica says of itself, about once a second."""

    replica_id: str
    # Leases under which a request runs.
    live_leases: frozenset[str]
    # A draining replica keeps its leases and gets no new ones.
    draining: bool = False
    # None when the engine could not be asked this time.
    metrics: EngineMetrics | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One of OpenAI's `x-ratelimit-*` triples; None in `limit` means that there is none."""

    limit: int | None
    remaining: int | None
    reset_s: float


class Granted(NamedTuple):
    """The ticket left the queue for an engine."""

    lease: Lease
    queue_wait_s: float
    # The class served, to be echoed; empty for a lease that was adopted after a restart.
    class_name: str = ""
    # It had one before: that was taken back, or its gateway asks again.
    again: bool = False


class Refused(NamedTuple):
    """The ticket gets no engine."""

    ticket_id: str
    outcome: Outcome
    # When a place is expected; whole seconds, at least one. None: no time can be named.
    retry_after_s: int | None
    # The time to the first token that was predicted, where that is the reason.
    predicted_wait_s: float | None = None
    # A place is kept for a client that returns at that time.
    promised: bool = False


class Revoke(NamedTuple):
    """Abort this request on its replica before its first token; it is queued again, with its age."""

    ticket_id: str
    replica_id: str


Action = Granted | Refused | Revoke
