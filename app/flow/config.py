"""What can be set of the decision core; each default carries its reason. Times in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# A fleet of few places must serve every class all the same.
MAX_RESERVE_SHARE = 0.25
# What the scheduler remembers of promises dies with it; longer windows are Prometheus's.
MAX_WINDOW_S = 86_400.0
# Thirty years: what is longer is a mistake, and a rate over it drowns in rounding errors.
LARGEST = 1e9


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the flow that a deployment sets."""

    max_queued: int
    max_queue_wait_s: float
    requests_per_replica: int
    lease_ttl_s: float
    replica_ttl_s: float
    # How many may wait for an engine that starts while none is there; None: as many as for one that is.
    max_queued_without_engine: int | None = None
    # Bodies of all tenants that wait or run; gateways keep each until its request has ended.
    max_bytes: int = 1024 * 1024 * 1024
    # One engine step's token budget: how far prompts get in a step, and how far one of them does at most.
    batched_tokens: int = 2048
    prompt_step_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ClassPolicy:
    """A class of requests that share promises."""

    name: str
    # Head start over boost 0: a request is overtaken only by those that arrive within the difference.
    boost_s: float
    # Share of the dispatched cost that a backlogged class gets whatever the others do.
    min_share: float
    # Promise for the first token; also the longest wait in the queue.
    ttft_budget_s: float
    # Promise for the last token, if there is one.
    deadline_s: float | None = None
    # Places that it leaves free for more urgent classes, in square roots of the places that these hold on
    # average: chance takes so many more (square-root staffing, Halfin and Whitt, 1981). Fewer while places
    # fall free in time for them and no queue stands; nothing while they ask for nothing.
    reserve_roots: float = 0.0
    # Share of requests for which its promises are to be kept: they are stated as P99s.
    objective: float = 0.99

    def reserve(self, places: int, urgent_places: float) -> float:
        """Places that it leaves free of all; `urgent_places`: what more urgent classes hold on average."""
        return min(self.reserve_roots * math.sqrt(min(urgent_places, places)), MAX_RESERVE_SHARE * places)


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """What one tenant may use."""

    # A tenant with weight 2 gets twice the tokens of one with weight 1 while both wait.
    weight: float = 1.0
    # None: no limit, the fair share decides.
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    # Fairness orders the queue; this bounds what one tenant can put into it.
    max_queued: int = 100_000
    # Answers at a time; the last request may bring several. Fairness shares what is contended; a cap is for
    # contracts only.
    max_running: int = 100_000
    # 256 prompts of 1 MiB: above it the gateway's memory is at stake.
    max_bytes: int = 256 * 1024 * 1024
    # The most urgent class; a request for a higher one is served as this. Empty: any.
    highest_class: str = ""


@dataclass(frozen=True, slots=True)
class FairnessPolicy:
    """Virtual token counter: what a request costs its tenant."""

    enabled: bool = True
    # A generated token holds the engine about twice as long as a prompt token (VTC, OSDI 2024; llm-d LAS).
    output_weight: float = 2.0
    # What a returning tenant keeps of turns it did not use, in cost. The paper's rule is none; where light
    # tenants often have an empty queue, credit makes shares more even.
    return_credit: float = 100_000.0
    # Idle tenants beyond this are forgotten: keys that churn must not grow the state.
    max_tenants: int = 10_000


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """Predict, then verify."""

    enabled: bool = True
    # Refuse when one in four such requests would be late: one in ten was too strict. It refused a fifth of
    # the interactive requests of two real engines, where of those let in 98 % were in time.
    error_quantile: float = 0.75
    # Until leases have ended there is no rate to predict from.
    initial_service_s: float = 1.0
    # Until an engine has counted its steps: the order of a large model's on a fast GPU.
    initial_step_s: float = 0.02
    # Until then, too: 2,000 prompt tokens a second, a small engine.
    initial_prefill_tokens_per_s: float = 2000.0
    # Outputs of unknown length; the mean of public chat traces is about 200.
    initial_output_tokens: int = 200
    # Weight of the newest sample; half of the memory is in the last 35.
    smoothing: float = 0.02
    # Horizon of arrival rates: long against one service time, short against a daily curve. With 20 s more of
    # those that can wait are given up as soon as an overload begins; lasting ones make no difference.
    rate_horizon_s: float = 30.0
    # How long an overload is expected to go on from now on: whoever may wait for a minute outlasts most, and
    # is not refused as if all that passes it would do so for that minute. Simulated, an overload of 45 s
    # keeps 99 % of batch instead of 74; of one that lasts a few more end after a wait (docs/flow.md).
    overload_s: float = 30.0
    # Refuse at once, instead of after a wait, where a queue only stands and absorbs nothing.
    impatient: bool = True
    # A lull: arrivals averaged over this time are fewer than the engines complete; less is chance.
    lull_s: float = 1.0
    # A class waits no more once a queue has stood for twice its budget: a burst of about that length is
    # absorbed, as far as waiting helps.
    standing_weight: float = 0.5
    # Places more that a request needs at a lasting overload for each time that it costs its tenant's mean
    # above that mean, in square roots of all places. What it gains: docs/flow.md.
    thrift_roots: float = 2.0
    # While an overload is younger, whoever by that, and by its tenant's share, may have half of the places
    # that its class leaves to others may wait for the next one for three fifths of its budget. 0: nobody may.
    burst_s: float = 60.0
    # Who waits yields to more urgent newcomers that find no place for this share of its budget: long enough
    # to outlast a burst. With 1 an overload of three minutes refuses a third more after a wait; 0: it never
    # yields.
    yield_share: float = 0.75
    # A second of lull outweighs so many of standing: with one, a bursty trace keeps fewer promises.
    lull_weight: float = 5.0
    # Keep a place for a client that was told when to return.
    promises: bool = True
    # Share of a class's rate that may be promised: the rest serves those who come for the first time.
    promise_share: float = 0.5
    # A client that returns this early or late still finds its place: clients round, and add jitter.
    promise_early_s: float = 1.0
    promise_late_s: float = 5.0
    # Bound of the book of promises.
    max_promises: int = 10_000


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """How the number of requests in an engine follows its state."""

    enabled: bool = True
    # What waits in the engine beyond a step's worth of prompts, or beyond 15 %, is lost to its own order.
    burst_share: float = 0.15
    # Four tokens a second is the slowest that people read.
    itl_budget_s: float = 0.25
    # As TCP-like limiters do: small enough that one bad sample costs little.
    shrink: float = 0.9
    # Never below an eighth of the start: an engine with fewer requests wastes its weights' bandwidth.
    floor_share: float = 0.125
    # One shrink a window: the effect of the last one must show first.
    window_s: float = 2.0
    # Above this share of the KV cache the next output tokens may force a preemption.
    kv_high: float = 0.95
    # What the reservations of leases may add up to; outputs rarely reach their bound at once.
    kv_reserve: float = 0.95
    # Three missed reports: then the last known state is no state.
    stale_s: float = 3.0


@dataclass(frozen=True, slots=True)
class PreemptPolicy:
    """Abort and requeue what has no first token when something urgent would be late."""

    enabled: bool = True
    # Once is latency, twice is harassment; it also bounds the work that is thrown away.
    max_revokes: int = 1
    # A victim that is about to answer frees nothing: only those granted this recently.
    max_age_s: float = 1.0
    # The loser must still have this long for its own promise: it waits again, but is not refused.
    min_slack_s: float = 5.0
    # Act when this share of the budget would be used up by waiting.
    risk_share: float = 0.8


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """Which replica gets a request."""

    affinity: bool = True
    # Predict from where an engine is in its steps; else from its backlog alone.
    follow_steps: bool = True
    # An engine whose prompts take longer than this share of the shortest promise of the more urgent classes
    # gets no request of a less urgent one: a newcomer's first token would wait for all of them.
    prefill_share: float = 0.2
    # vLLM's block size times 16: what the gateway hashes at once.
    tokens_per_block: int = 256
    # Blocks remembered for each replica: 16 Mi tokens, a large cache of keys and values.
    max_blocks_per_replica: int = 65_536
    # Of all replicas together, which share it: some 400 bytes (estimated) of the scheduler's memory each.
    max_blocks: int = 1_048_576
    max_sessions: int = 65_536
    # A replica that knows the session, or the prompt's beginning, may be slower by this much: its cache is
    # likely warm.
    affinity_bonus_s: float = 0.2


@dataclass(frozen=True, slots=True)
class SloPolicy:
    """Over which time promises are counted."""

    # A fast and a slow look, as in burn-rate alerts: five minutes see an incident, an hour a trend.
    windows_s: tuple[float, ...] = (300.0, 3600.0)


def default_classes() -> tuple[ClassPolicy, ...]:
    """Three classes, most urgent first.

    The difference of boosts is the longest time by which a later request can overtake; interactive and
    standard precede batch for as long as batch may wait at all, the minimum shares let it progress.
    """
    return (
        # Two seconds is where people lose the thread of a conversation (Nielsen, 1993: 1 to 10 s).
        ClassPolicy("interactive", boost_s=70.0, min_share=0.0, ttft_budget_s=2.0),
        # Ten seconds keep attention; boosts differ by as much, so it never overtakes interactive.
        # More left free costs goodput; less, and more urgent requests find no place at once.
        ClassPolicy("standard", boost_s=60.0, min_share=0.05, ttft_budget_s=10.0, reserve_roots=2.0),
        # A minute: nobody watches, but a client's timeout is near. A fiftieth is enough to move (a twentieth
        # took 3 of a hundred promises from standard in bursts, simulated); it leaves more, so that standard
        # goes first.
        ClassPolicy("batch", boost_s=0.0, min_share=0.02, ttft_budget_s=60.0, reserve_roots=2.3),
    )


# Divided by, or without a meaning at 0. A tenant that is to have nothing gets no key.
_OF_A_TENANT = ("requests_per_minute", "tokens_per_minute", "max_queued", "max_running", "max_bytes")
_OF_ADMISSION = (
    *("initial_service_s", "initial_step_s", "initial_prefill_tokens_per_s", "initial_output_tokens"),
    *("rate_horizon_s", "lull_s", "lull_weight", "promise_late_s"),
)
_OF_PREEMPTION = ("max_revokes", "max_age_s", "min_slack_s", "risk_share")


def _check_above_zero(where: str, policy: object, *names: str, most: float = math.inf) -> None:
    """Raises ValueError naming the first that is not, or is above `most`; None says nothing."""
    for name in names:
        value = getattr(policy, name)
        if value is not None and not 0 < value <= most:
            raise ValueError(f"{where}.{name}: {value} must be above 0{_at_most(most)}")


def _check_not_below_zero(where: str, policy: object, *names: str, most: float = math.inf) -> None:
    """Raises ValueError naming the first that is, or is above `most`."""
    for name in names:
        value = getattr(policy, name)
        if not 0 <= value <= most:
            raise ValueError(f"{where}.{name}: {value} must be 0 or more{_at_most(most)}")


def _check_below_one(where: str, policy: object, *names: str) -> None:
    """Raises ValueError naming the first share that is not, or is below 0."""
    for name in names:
        share = getattr(policy, name)
        if not 0 <= share < 1:
            raise ValueError(f"{where}.{name}: {share} must be 0 or more and below 1")


def _at_most(most: float) -> str:
    return "" if most == math.inf else f" and at most {most:g}"


def _check_class(policy: ClassPolicy) -> None:
    where = f"classes[{policy.name!r}]"
    _check_below_one(where, policy, "min_share")
    _check_above_zero(where, policy, "ttft_budget_s", most=LARGEST)
    _check_above_zero(where, policy, "deadline_s")
    _check_not_below_zero(where, policy, "boost_s", "reserve_roots", most=LARGEST)
    if not 0.0 < policy.objective < 1.0:
        stated = f"{where}.objective: {policy.objective}"
        raise ValueError(f"{stated}: must lie between 0 and 1; at 1 there is no error budget")


def _check_admission(policy: AdmissionPolicy) -> None:
    _check_above_zero("admission", policy, *_OF_ADMISSION, most=LARGEST)
    # Infinite: an overload is expected to go on for ever.
    _check_above_zero("admission", policy, "overload_s")
    # Parts of one: a sample does not weigh more than all, and no more is promised than there is.
    _check_above_zero("admission", policy, "smoothing", "promise_share", most=1.0)
    _check_below_one("admission", policy, "error_quantile")
    weights = ("standing_weight", "thrift_roots", "burst_s", "promise_early_s")
    _check_not_below_zero("admission", policy, *weights, most=LARGEST)
    _check_not_below_zero("admission", policy, "yield_share", most=1.0)
    _check_not_below_zero("admission", policy, "max_promises")


def _check_tenant(where: str, policy: TenantPolicy, classes: list[str]) -> None:
    _check_above_zero(where, policy, *_OF_A_TENANT)
    _check_above_zero(where, policy, "weight", most=LARGEST)
    if policy.highest_class not in ["", *classes]:
        raise ValueError(f"{where}.highest_class: {policy.highest_class!r} is not one of {classes}")


@dataclass(frozen=True, slots=True)
class FlowConfig:
    """The policies of one application's flow control."""

    # Most urgent first.
    classes: tuple[ClassPolicy, ...] = field(default_factory=default_classes)
    # Which class a ticket without a class name gets: the middle one for priority 0.
    default_class: str = "standard"
    tenant: TenantPolicy = TenantPolicy()
    tenants: dict[str, TenantPolicy] = field(default_factory=dict)
    fairness: FairnessPolicy = FairnessPolicy()
    admission: AdmissionPolicy = AdmissionPolicy()
    limit: LimitPolicy = LimitPolicy()
    preempt: PreemptPolicy = PreemptPolicy()
    route: RoutePolicy = RoutePolicy()
    slo: SloPolicy = SloPolicy()

    def policy_of(self, tenant: str) -> TenantPolicy:
        return self.tenants.get(tenant, self.tenant)

    def __post_init__(self) -> None:
        names = [policy.name for policy in self.classes]
        if len(set(names)) != len(names):
            raise ValueError(f"classes: the names {names} are not distinct")
        if self.default_class not in names:
            raise ValueError(f"default_class: {self.default_class!r} is not one of {names}")
        if sum(policy.min_share for policy in self.classes) >= 1:
            raise ValueError("classes: the minimum shares add up to 1 or more, so none can be kept")
        for one in self.classes:
            _check_class(one)
        windows_s = self.slo.windows_s
        if not windows_s or not all(0 < window_s <= MAX_WINDOW_S for window_s in windows_s):
            window = f"slo.windows_s: {list(windows_s)}"
            raise ValueError(
                f"{window}: needs one window or more, each above 0 and at most {MAX_WINDOW_S:g} s"
            )
        _check_not_below_zero("fairness", self.fairness, "output_weight", most=LARGEST)
        _check_not_below_zero("fairness", self.fairness, "return_credit")
        _check_above_zero("fairness", self.fairness, "max_tenants")
        _check_admission(self.admission)
        _check_above_zero("limit", self.limit, "itl_budget_s", "kv_high")
        _check_above_zero("limit", self.limit, "kv_reserve", most=LARGEST)
        _check_not_below_zero("limit", self.limit, "burst_share", "window_s", "stale_s", most=LARGEST)
        _check_below_one("limit", self.limit, "shrink", "floor_share")
        _check_not_below_zero("preempt", self.preempt, *_OF_PREEMPTION)
        _check_not_below_zero("route", self.route, "prefill_share")
        _check_not_below_zero("route", self.route, "affinity_bonus_s", most=LARGEST)
        _check_above_zero(
            "route", self.route, "tokens_per_block", "max_blocks_per_replica", "max_blocks", "max_sessions"
        )
        _check_tenant("tenant", self.tenant, names)
        for name, policy in self.tenants.items():
            _check_tenant(f"tenants[{name!r}]", policy, names)
