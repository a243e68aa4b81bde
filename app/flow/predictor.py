"""Predict, then verify: when would this ticket see its first and its last token?

TTFT^ = wait for a place + time in the engine
  wait   = requests ahead / rate at which places fall free for this class
  engine = steps that the prompt tokens ahead and its own take, at the learnt pace (pace.py); a ticket that
           has a place at once gets the prediction of its very engine
E2E^  = TTFT^ + output (80 % quantile) x ITL^(batch), a line fitted to the engines' reports

Each class tracks actual / predicted by the size of the prediction, and so do all that have a place at once:
the median corrects what is told to a client, a high quantile decides. The rate for a class is what all
engines give back (Little: places / mean time that a request holds one) less what more urgent classes take, as
long as that is expected to go on, and less the minimum shares of the others that wait.
"""

from __future__ import annotations

import math

from app.flow.config import FlowConfig
from app.flow.estimate import DecayedRate, RunningLine, RunningMean, RunningQuantile, Window
from app.flow.fairness import TenantFlow
from app.flow.queue import ClassQueue, Entry, FlowQueue
from app.flow.replicas import ReplicaPool
from app.flow.tenants import OUTPUT_QUANTILE, Account, OutputLength
from app.flow.ticket import Ticket

# A ratio of a prediction of milliseconds says nothing: both are at least this.
MIN_TTFT_S = 0.01
# Factors of two from 10 ms to 40 s.
ERROR_BUCKETS = 13
# Ratios that are remembered for a size: few, to follow an engine that has just changed its pace.
ERROR_SAMPLES = 50
# Until then: so many that were right.
ERROR_PRIOR = 10
# Engines are not asked for less than this a second: it keeps divisions finite.
MIN_RATE_PER_S = 1e-3
# A lease that ends at once still counts as a request: it keeps rates finite.
MIN_SERVICE_S = 1e-3


def _error_table() -> list[Window]:
    # A wait of milliseconds is wrong by another factor than one of minutes.
    return [Window(1.0, ERROR_SAMPLES, ERROR_PRIOR) for _ in range(ERROR_BUCKETS)]


def _going_on(budget_s: float, overload_s: float) -> float:
    """The share of its budget for which an overload goes on, on average, if it ends at random."""
    budgets = budget_s / overload_s
    return -math.expm1(-budgets) / budgets if budgets > 0.0 else 1.0


class _ClassState:
    """What is learnt of one class: its errors by the size of the prediction, its rates, its mean cost."""

    __slots__ = ("arrivals", "cost", "errors", "going_on", "passed")

    def __init__(self, config: FlowConfig, budget_s: float) -> None:
        self.errors = _error_table()
        self.arrivals = DecayedRate(config.admission.rate_horizon_s)
        # More urgent requests that went before: as long as it may wait, a burst of them may end.
        self.passed = DecayedRate(max(config.admission.rate_horizon_s, budget_s))
        self.going_on = _going_on(budget_s, config.admission.overload_s)
        self.cost = RunningMean(1.0, config.admission.smoothing)


class Predictor:
    """All running estimates, and the predictions made of them."""

    def __init__(self, config: FlowConfig, queue: FlowQueue, pool: ReplicaPool) -> None:
        self._config = config
        self._queue = queue
        self._pool = pool
        smoothing = config.admission.smoothing
        self._service_s = RunningMean(config.admission.initial_service_s, smoothing)
        self._itl_s = RunningLine(0.0, 0.0, smoothing)
        self._classes = [_ClassState(config, one.ttft_budget_s) for one in config.classes]
        # Of those that had a place at once: only the engine can surprise them, whatever their class.
        self._placed = _error_table()

    def served(self, service_s: float) -> None:
        """Time that a completed request held its place; of several places, of all together."""
        self._service_s.add(max(service_s, MIN_SERVICE_S))

    def itl(self, running: int, itl_s: float) -> None:
        if running > 0 and itl_s > 0:
            self._itl_s.add(running, itl_s)

    def arrived(self, rank: int, now_s: float) -> None:
        """Whether it is let in or not."""
        self._classes[rank].arrivals.add(1.0, now_s)

    def dispatched(self, rank: int, cost: float, now_s: float) -> None:
        self._classes[rank].cost.add(cost)
        for passed in self._classes[rank + 1 :]:
            passed.passed.add(1.0, now_s)

    def first_token(self, rank: int | None, raw_s: float, ttft_s: float) -> None:
        """Rank None: it had a place at once."""
        self._errors(rank, raw_s).add(max(ttft_s, MIN_TTFT_S) / max(raw_s, MIN_TTFT_S))

    def refused(self, rank: int | None, raw_s: float) -> None:
        """The high estimate was too late. A refusal shows nothing, so it counts as a prediction that was
        right or better: else a factor that refuses could never fall."""
        errors = self._errors(rank, raw_s)
        errors.add(min(1.0, errors.quantile(0.5)))

    def output(self, account: Account, ticket: Ticket, tokens: int) -> None:
        """What all its answers together have taken."""
        # Factors of two of the bound of one answer; 0 where there is none.
        bucket = (ticket.max_output_tokens // ticket.answers).bit_length()
        lengths, each = account.outputs.get(bucket), tokens / ticket.answers
        if lengths is None:
            initial = max(1.0, each)
            lengths = account.outputs[bucket] = OutputLength(
                RunningMean(initial, self._config.admission.smoothing),
                RunningQuantile(OUTPUT_QUANTILE, initial),
            )
        lengths.mean.add(each)
        lengths.high.add(each)

    def output_tokens(self, account: Account, ticket: Ticket) -> tuple[int, float]:
        """Expected and high output of a ticket, all answers together; it has a bound of 0 where none is
        known."""
        bound = ticket.max_output_tokens
        lengths = account.outputs.get((bound // ticket.answers).bit_length())
        if lengths is None:
            initial = self._config.admission.initial_output_tokens * ticket.answers
            expected = min(bound, initial) if bound else initial
            return expected, float(expected)
        mean, high = lengths.mean.value * ticket.answers, lengths.high.value * ticket.answers
        return (int(min(bound, mean)), min(bound, high)) if bound else (int(mean), high)

    def expected_output(self, entry: Entry) -> int:
        """Tokens that it will take, all answers together."""
        return self.output_tokens(entry.account, entry.ticket)[0]

    def rate_tokens(self, ticket: Ticket, account: Account) -> int:
        """What it takes of its tenant's tokens a minute until its true use is known: of an output without a
        bound what is expected. The prompt of one that has moved was taken before."""
        if account.tokens is None:
            return 0
        output = ticket.max_output_tokens or self.output_tokens(account, ticket)[0]
        return output + (0 if ticket.moved else ticket.prompt_tokens)

    def ttft_s(self, rank: int, flow: TenantFlow, prompt_tokens: int, now_s: float) -> float:
        """Of a newcomer to this flow, uncorrected."""
        queue = self._queue.classes[rank]
        return self._ttft_s(queue, self._position(queue, flow), prompt_tokens, now_s)

    def last_ttft_s(self, rank: int, prompt_tokens: int, now_s: float) -> float:
        """Of the last of those that wait in a class, uncorrected; one waits at least."""
        queue = self._queue.classes[rank]
        return self._ttft_s(queue, queue.size, prompt_tokens, now_s)

    def _ttft_s(self, queue: ClassQueue, ahead: float, prompt_tokens: int, now_s: float) -> float:
        """Wait for a place, as the `ahead`th of its class, then for the engine. Where places are free,
        prompts wait for those ahead: at least what the engines take for them."""
        rank = queue.rank
        tokens = queue.prompt_tokens * (ahead - 1.0) / (queue.size or 1)
        for urgent in self._queue.classes[:rank]:
            ahead += urgent.size
            tokens += urgent.prompt_tokens
        ahead += queue.missing(self._pool.free)
        wait_s = ahead / self.rate_per_s(rank, now_s, self._classes[rank].going_on)
        if self._pool.starting:
            wait_s = self._with_starting(wait_s, now_s)
        ttft_s = wait_s + self._pool.engine_ttft_s(prompt_tokens)
        if self._pool.free <= 0 or not tokens:
            return ttft_s
        return max(ttft_s, self._pool.engine_ttft_s(prompt_tokens + tokens / (self._pool.ready or 1)))

    def corrected(self, rank: int | None, raw_s: float) -> tuple[float, float]:
        """Median and high estimate from a raw one; rank None: there is a place at once."""
        errors = self._errors(rank, raw_s)
        base = raw_s if raw_s > MIN_TTFT_S else MIN_TTFT_S
        return base * errors.quantile(0.5), base * errors.quantile(self._config.admission.error_quantile)

    def median_s(self, raw_s: float) -> float:
        """The median estimate alone, where there is a place at once."""
        return max(raw_s, MIN_TTFT_S) * self._errors(None, raw_s).quantile(0.5)

    def finish_s(self, ticket: Ticket, account: Account, ttft_s: float) -> float:
        """From arrival to the last token, for a time to first token. Several answers are given at a time."""
        _, output = self.output_tokens(account, ticket)
        batch = self._pool.places / max(1, self._pool.ready)
        return ttft_s + output / ticket.answers * self._itl_s.at(batch)

    def expected_cost(self, ticket: Ticket, account: Account) -> float:
        """What a ticket will be charged if nothing of its prompt is cached."""
        expected, _ = self.output_tokens(account, ticket)
        return ticket.prompt_tokens + self._config.fairness.output_weight * expected

    def cost(self, rank: int) -> float:
        """Mean cost of a request of this class, at least 1."""
        return max(1.0, self._classes[rank].cost.value)

    def total_rate_per_s(self) -> float:
        """Requests that leave the engines each second when all places are taken."""
        rate = self._pool.places / self._service_s.value
        return rate if rate > MIN_RATE_PER_S else MIN_RATE_PER_S

    def urgent_places(self, rank: int, now_s: float) -> float:
        """Places that more urgent classes take on average: rate x service time (Little), or their share of
        what is asked for while the service time is not known yet."""
        rates = [one.arrivals.per_s(now_s) for one in self._classes]
        urgent_per_s = sum(rates[:rank], 0.0)
        # Fewer than one in the time that is remembered: nobody asks.
        if urgent_per_s * self._config.admission.rate_horizon_s < 1.0:
            return 0.0
        return max(urgent_per_s * self._service_s.value, self._pool.places * urgent_per_s / sum(rates))

    def rate_per_s(self, rank: int, now_s: float, going_on: float = 1.0) -> float:
        """Requests of this class that can leave the queue each second, where what passes it goes on for that
        share of the time."""
        total = self.total_rate_per_s()
        rate = total - going_on * self._classes[rank].passed.per_s(now_s)
        queues = self._queue.classes
        for queue in queues:
            if queue.size and queue.rank != rank:
                rate -= total * queue.policy.min_share
        least = total * queues[rank].policy.min_share
        if rate < least:
            rate = least
        return rate if rate > MIN_RATE_PER_S else MIN_RATE_PER_S

    def drain_s(self, rank: int, now_s: float) -> float:
        """Until everything that precedes a newcomer of this class has left."""
        return self.clear_s(sum(queue.size for queue in self._queue.classes[: rank + 1]), rank, now_s)

    def clear_s(self, ahead: int, rank: int, now_s: float) -> float:
        """Until so many that precede a newcomer of this class have left."""
        return (ahead + 1) / self.rate_per_s(rank, now_s)

    def _errors(self, rank: int | None, raw_s: float) -> Window:
        table = self._placed if rank is None else self._classes[rank].errors
        bucket = int(raw_s / MIN_TTFT_S).bit_length()
        return table[bucket] if bucket < ERROR_BUCKETS else table[-1]

    def _position(self, queue: ClassQueue, flow: TenantFlow) -> float:
        """Place in the class's fair order: who has a place of his own goes first; the other waiting tenants
        are served until their counters have passed the flow's own, and once for each of its own tickets."""
        others = queue.order.waiting - (flow.size > 0)
        rounds = flow.size / flow.weight
        debt = flow.counter - queue.order.floor
        if debt > 0.0:
            rounds += debt / self.cost(queue.rank)
        position = queue.order.lane.size + flow.size + 1 + others * rounds
        last = queue.size + 1.0
        return position if position < last else last

    def _with_starting(self, wait_s: float, now_s: float) -> float:
        """Capacity that is starting shortens the wait from the moment it is expected."""
        replicas = self._pool.ready
        for delay_s in self._pool.starts_s(now_s):
            if replicas == 0:
                wait_s = delay_s
            elif delay_s < wait_s:
                wait_s = delay_s + (wait_s - delay_s) * replicas / (replicas + 1)
            replicas += 1
        return wait_s
