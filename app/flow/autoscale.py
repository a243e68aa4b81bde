"""How many engines the present load asks for: up in proportion and at once, down late and step by step.

Rules
- Without data nothing changes.
- Up: the most that any trigger asks for. Engines that are starting count, so one burst is not answered twice.
- Down: only to what would have carried most of the load of the last `downscale_delay_s`; where it comes in
  bursts, of `LONG_MEMORY` times as long: bursts come back.
- Between the two thresholds of use nothing changes: what was added is not taken away by the same load.
- A step up at most doubles, and the next one waits; a step down takes at most a quarter.
- Never more than the cluster can place: then the decision names what is missing.
- To none only after `idle_s` without a request, and back at once with the first one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from app.flow.recent import MAX_SAMPLES, Rises, SlidingQuantile, Trend

# Of the answers by which latency is judged: what was late stays so for this long.
LATENCY_WINDOW_S = 60.0
# Bursts are remembered for so many downscale delays, but for the part of that time that may lie above.
LONG_MEMORY = 4.5
LONG_SHARE = 0.97
# A load that has risen from a quarter to half of its peak so often in that time comes in bursts.
BURSTY_RISES = 3
# Then what a step up has brought is kept for so many downscale delays.
BURST_PATIENCE = 1.25
# Steps down in one downscale delay.
STEPS_DOWN = 3.0
# Rounding must not ask for an engine.
SLACK = 1e-9
# A new scheduler has heard of all engines that start after this. No longer: a start that failed without a
# word looks like one for as long as it would take.
ADOPT_S = 60.0
# Of those that run after this, or two starts where these take longer: who was about to start at the failover,
# and was not heard of, is there by then. As long as FOLLOWER_S (app/serving/autoscaling.py), at least.
ADOPT_LATE_S = 300.0


class Reason(StrEnum):
    """Why the target is what it is; the label of its metric."""

    NO_DATA = "no_data"
    STEADY = "steady"
    MINIMUM = "minimum"
    # Up
    QUEUE = "queue"
    USE = "use"
    TREND = "trend"
    DRAIN = "drain"
    LATENCY = "latency"
    KV_CACHE = "kv_cache"
    WAKE = "wake"
    # Down
    SURPLUS = "surplus"
    IDLE = "idle"
    # More was asked for
    STEP_LIMIT = "step_limit"
    MAXIMUM = "maximum"
    UNPLACEABLE = "unplaceable"


@dataclass(frozen=True, slots=True)
class ScalePolicy:
    """What can be set; each default carries its reason. Times in seconds."""

    min_replicas: int = 1
    max_replicas: int = 1
    # Queued requests an engine that are tolerated.
    target_queue_depth: float = 8.0
    # Only the queue's depth asks for more.
    queue_only: bool = False
    # Share of its places that an engine uses on end, above which one is added: chance needs the rest.
    use_high: float = 0.9
    # One is given up when the others would stay below this: the distance keeps it from coming back.
    use_low: float = 0.8
    # Latency rises steeply where engines are full: at this share of the promise it is about to. It must last
    # as long as a start.
    latency_high: float = 0.6
    # vLLM preempts when its cache is full.
    kv_high: float = 0.9
    # A queue asks for no more engines than work it off within so many starts. At one, the last that comes
    # finds nothing left of it; a half has some in reserve for the next burst.
    clear_starts: float = 0.5
    # A queue this deep for so long is no accident.
    upscale_delay_s: float = 1.0
    # An engine costs minutes to start, and bursts come back: give it up slowly.
    downscale_delay_s: float = 600.0
    # The engines do what arrives for this share of that time; twelve seconds of it are absorbed or refused.
    need_share: float = 0.98
    # A trend is what lasts longer than this, the order of a start: others are over when an engine comes.
    trend_s: float = 90.0
    # Look ahead this many starts: what is asked for now comes after one.
    lookahead: float = 1.0
    # A step shows in the queue only after a while.
    step_s: float = 10.0
    # An engine that sleeps costs its next user a start.
    idle_s: float = 600.0


def lean(policy: ScalePolicy) -> ScalePolicy:
    """The same with nothing in reserve: fewer engine hours, and fewer promises kept in bursts."""
    return replace(policy, use_high=1.0, use_low=0.96, clear_starts=1.25)


@dataclass(frozen=True, slots=True)
class Load:
    """What the scheduler sees at one moment. None: not known."""

    # Requests in the queue and on engines.
    queued: int
    in_flight: int
    # Requests that arrive, those included that find no place. Each class's rate is over its budget, in which
    # a burst of it may be worked off; the highest of the rates of a class and all more urgent ones.
    offered_per_s: float
    # Mean time that a request holds its place.
    service_s: float
    # Places of one engine.
    places_per_replica: float
    running: int
    starting: int
    # Mean time that an engine takes to start.
    start_s: float
    # Requests that have arrived since the beginning.
    arrived: int = 0
    # Predicted time to empty the queue; by class, over its budget.
    drain_s: float = 0.0
    drain_over_budget: tuple[tuple[str, float], ...] = ()
    # 90 % of the last minute's answers were within this many budgets.
    ttft_over_slo: float | None = None
    tpot_over_slo: float | None = None
    # Share of the KV cache in use, mean over the engines.
    kv_use: float | None = None
    # Engines that the cluster holds, those that run included; and what one more would lack.
    placeable: int | None = None
    missing: str = ""

    @property
    def need(self) -> float:
        """Engines, all places in use, that do what arrives (Little's law)."""
        return self.offered_per_s * self.service_s / self.places_per_replica

    @property
    def over_slo(self) -> float:
        """The later of the two: to the first token, and from one to the next."""
        return max(self.ttft_over_slo or 0.0, self.tpot_over_slo or 0.0)

    @property
    def idle(self) -> bool:
        return not self.queued and not self.in_flight


@dataclass(frozen=True, slots=True)
class Decision:
    """The target, why, and what was asked for before the bounds."""

    target: int
    reason: Reason
    wanted: int
    # The resource that keeps the target below what is wanted.
    missing: str = ""


class Autoscaler:
    """Remembers the load of the last minutes and the last target. One writer; call it about each second."""

    def __init__(self, policy: ScalePolicy) -> None:
        self._policy = policy
        self._target: int | None = None
        long_s = LONG_MEMORY * policy.downscale_delay_s
        grain_s = long_s / MAX_SAMPLES
        self._need = SlidingQuantile(policy.downscale_delay_s, policy.need_share, grain_s=grain_s)
        self._need_long = SlidingQuantile(long_s, LONG_SHARE, grain_s=grain_s)
        self._rises = Rises(long_s)
        self._trend = Trend(policy.trend_s)
        self._deep_since_s: float | None = None
        self._slow_since_s: float | None = None
        self._arrived = 0
        self._asked = False
        self._busy_s = 0.0
        self._born_s: float | None = None
        self._up_s = self._down_s = -math.inf

    def decide(self, load: Load | None, now_s: float) -> Decision:
        """The target from now on. `load` None: nobody knows, so nothing changes."""
        if load is None:
            target = self._policy.min_replicas if self._target is None else self._target
            return Decision(target, Reason.NO_DATA, target)
        if self._born_s is None:
            self._born_s = self._busy_s = now_s
        before = self._target or 0
        # Who sleeps wakes for a reason of its own.
        if self._target != 0:
            before = max(before, self._adopted(load, now_s - self._born_s))
        before = min(max(before, self._policy.min_replicas), self._policy.max_replicas)
        self._observe(load, now_s)
        wanted, reason = self._wanted(load, now_s, before)
        decision = self._bounded(load, wanted, reason, before, now_s)
        self._remember(decision.target, now_s)
        return decision

    def _adopted(self, load: Load, age_s: float) -> int:
        """After a restart what is heard of is what was wanted; but not what it has itself given up."""
        if self._down_s > -math.inf or age_s > max(ADOPT_LATE_S, 2.0 * load.start_s):
            return 0
        return load.running + (load.starting if age_s <= ADOPT_S else 0)

    def _observe(self, load: Load, now_s: float) -> None:
        self._need.add(load.need, now_s)
        self._need_long.add(load.need, now_s)
        self._rises.add(load.need, self._needed_long(now_s), now_s)
        self._trend.add(load.need, now_s)
        # Who is refused has asked, too: until an engine is woken.
        self._asked = self._asked or load.queued > 0 or load.arrived != self._arrived
        self._arrived = load.arrived
        if self._asked or not load.idle:
            self._busy_s = now_s
        deep = load.queued > self._policy.target_queue_depth * load.running
        self._deep_since_s = _since(deep, self._deep_since_s, now_s)
        self._slow_since_s = _since(load.over_slo > self._policy.latency_high, self._slow_since_s, now_s)

    def _wanted(self, load: Load, now_s: float, target: int) -> tuple[int, Reason]:
        if target == 0:
            return (1, Reason.WAKE) if self._asked else (0, Reason.IDLE)
        more, reason = max(self._triggers(load, now_s), key=lambda one: one[0])
        if more > target:
            return more, reason
        return self._fewer(now_s, target)

    def _triggers(self, load: Load, now_s: float) -> list[tuple[int, Reason]]:
        """What each asks for; the first of equals is named."""
        policy = self._policy
        asked = [(0, Reason.STEADY)]
        deep_s = self._deep_since_s
        deep = deep_s is not None and now_s - deep_s >= policy.upscale_delay_s
        if policy.queue_only:
            return [*asked, (_up(load.queued / policy.target_queue_depth), Reason.QUEUE)] if deep else asked
        clear_s = max(policy.clear_starts * load.start_s, SLACK)
        useful = _up(max(1, load.running) * load.drain_s / clear_s)
        if deep:
            asked.append((min(self._for_queue(load), useful), Reason.QUEUE))
        asked.append((_up(self._needed(now_s) / policy.use_high), Reason.USE))
        ahead = self._trend.ahead(load.start_s * policy.lookahead)
        asked.append((_up(ahead / policy.use_high), Reason.TREND))
        # What is measured on the running engines says how many of them would do.
        late = max((share for _, share in load.drain_over_budget), default=0.0)
        if late > 1.0:
            asked.append((min(_up(load.running * min(late, 2.0)), useful), Reason.DRAIN))
        slow_s = self._slow_since_s
        if slow_s is not None and now_s - slow_s >= LATENCY_WINDOW_S + load.start_s:
            asked.append((_up(load.running * min(load.over_slo / policy.latency_high, 2.0)), Reason.LATENCY))
        if load.kv_use is not None and load.kv_use > policy.kv_high:
            asked.append((_up(load.running * load.kv_use / policy.kv_high), Reason.KV_CACHE))
        return asked

    def _needed(self, now_s: float) -> float:
        """What was enough for most of the last `downscale_delay_s`."""
        return self._need.value(now_s) or 0.0

    def _needed_long(self, now_s: float) -> float:
        return self._need_long.value(now_s) or 0.0

    def _for_queue(self, load: Load) -> int:
        """Engines that take what is queued too deep: each new one, whether it is starting already or not, at
        once as many as it has places, and it tolerates as many more as the others."""
        depth = self._policy.target_queue_depth
        excess = load.queued - depth * load.running
        return load.running + _up(excess / (load.places_per_replica + depth))

    def _fewer(self, now_s: float, target: int) -> tuple[int, Reason]:
        policy = self._policy
        if policy.min_replicas == 0 and now_s - self._busy_s >= policy.idle_s:
            return 0, Reason.IDLE
        patience_s, needed = policy.downscale_delay_s, self._needed(now_s)
        if self._rises.count >= BURSTY_RISES:
            patience_s, needed = BURST_PATIENCE * patience_s, max(needed, self._needed_long(now_s))
        if now_s - max(self._born_s or 0.0, self._up_s) < patience_s:
            return target, Reason.STEADY
        enough = max(1, _up(needed / policy.use_low))
        return (enough, Reason.SURPLUS) if enough < target else (target, Reason.STEADY)

    def _bounded(self, load: Load, wanted: int, reason: Reason, target: int, now_s: float) -> Decision:
        policy = self._policy
        if wanted > policy.max_replicas:
            bounded, reason = policy.max_replicas, Reason.MAXIMUM
        elif wanted < policy.min_replicas:
            bounded, reason = policy.min_replicas, Reason.MINIMUM
        else:
            bounded = wanted
        missing = ""
        # What was asked for already may be on its way without being seen: only more is refused.
        if load.placeable is not None and bounded > max(load.placeable, target):
            bounded, reason, missing = max(load.placeable, target), Reason.UNPLACEABLE, load.missing
        if bounded > target:
            # Who sleeps wakes at once.
            ceiling = max(1, 2 * target if now_s - self._up_s >= policy.step_s else target)
            if bounded > ceiling:
                bounded, reason = ceiling, Reason.STEP_LIMIT
        elif bounded < target and reason in (Reason.SURPLUS, Reason.MINIMUM):
            due = now_s - self._down_s >= policy.downscale_delay_s / STEPS_DOWN
            bounded = max(bounded, target - max(1, target // 4)) if due else target
        return Decision(bounded, reason, wanted, missing)

    def _remember(self, target: int, now_s: float) -> None:
        if self._target is not None and target > self._target:
            self._up_s = now_s
        elif self._target is not None and target < self._target:
            self._down_s = now_s
        self._target = target
        self._asked = self._asked and not target


def _since(is_so: bool, since_s: float | None, now_s: float) -> float | None:
    """When it began to be so, if it is."""
    if not is_so:
        return None
    return now_s if since_s is None else since_s


def _up(replicas: float) -> int:
    return math.ceil(replicas - SLACK)
