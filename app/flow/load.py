"""The flow as the autoscaler sees it: what arrives, waits and runs, and how late the answers are."""

from __future__ import annotations

from itertools import accumulate

from app.flow.autoscale import LATENCY_WINDOW_S, Load
from app.flow.config import FlowConfig
from app.flow.estimate import DecayedRate, RunningMean
from app.flow.predictor import Predictor
from app.flow.queue import FlowQueue
from app.flow.recent import SlidingQuantile
from app.flow.replicas import ReplicaPool

# Of the time on an engine: half of the memory is in the last 170 requests. With the predictor's 35, chance in
# the lengths of outputs looked like load.
SERVICE_SMOOTHING = 0.004
# A 90 % quantile of fewer says nothing; of more it changes too late and costs memory.
MIN_SAMPLES = 10
MAX_SAMPLES = 512
HIGH_SHARE = 0.9
# Of its class's budget: a prompt that takes longer by itself is late on an engine of its own, too.
OWN_SHARE = 0.5
# Of an engine's places: where others hold no more, its tokens are slow by themselves.
FEW_SHARE = 0.125


class LoadMeter:
    """Learns from the controller's events what `Load` needs beside the queue and the pool."""

    def __init__(self, config: FlowConfig, pool: ReplicaPool) -> None:
        self._config = config
        self._pool = pool
        # A class's requests may come in bursts as long as its budget: over that time their rate counts.
        self._arrivals = [DecayedRate(one.ttft_budget_s) for one in config.classes]
        self._arrived = 0
        self._service_s = RunningMean(config.admission.initial_service_s, SERVICE_SMOOTHING)
        # Actual / budget of the last answers.
        self._ttft = SlidingQuantile(LATENCY_WINDOW_S, HIGH_SHARE, least=MIN_SAMPLES, most=MAX_SAMPLES)
        self._tpot = SlidingQuantile(LATENCY_WINDOW_S, HIGH_SHARE, least=MIN_SAMPLES, most=MAX_SAMPLES)

    def arrived(self, rank: int, now_s: float) -> None:
        """A request that may be served, whether it finds a place or not."""
        self._arrived += 1
        for arrivals in self._arrivals[rank:]:
            arrivals.add(1.0, now_s)

    def first_token(self, rank: int, ttft_s: float, uncached_tokens: int, now_s: float) -> None:
        """Over its class's budget: what a request asks for beyond that costs nobody an engine. Neither does a
        prompt that takes most of that by itself: no engine more helps it."""
        budget_s = self._config.classes[rank].ttft_budget_s
        most_s = OWN_SHARE * budget_s
        if ttft_s <= most_s or self._pool.alone_s(uncached_tokens) <= most_s:
            self._ttft.add(ttft_s / budget_s, now_s)

    def served(self, service_s: float) -> None:
        """Time that a completed request held its place; of several places, of all together."""
        # Less than nothing: the clock was set back.
        self._service_s.add(max(0.0, service_s))

    def tpot(self, tpot_s: float, others_share: float, now_s: float) -> None:
        """By the engine's clock: how slowly a client reads is not the engines' load. Slow tokens of an engine
        of whose places others hold a small share are not, either: no engine more makes them faster."""
        over = tpot_s / self._config.limit.itl_budget_s
        if over <= OWN_SHARE or others_share > FEW_SHARE:
            self._tpot.add(over, now_s)

    def load(self, queue: FlowQueue, predictor: Predictor, start_s: float, now_s: float) -> Load:
        pool = self._pool
        usable = list(pool.usable(now_s))
        metrics = [one.report.metrics for one in usable if one.report.metrics is not None]
        # Who waits for the end of his own tenant's requests is helped by no engine.
        runnable = [one.order.runnable if one.size else 0 for one in queue.classes]
        drains_s = [
            predictor.clear_s(ahead, rank, now_s) if ahead else 0.0
            for rank, ahead in enumerate(accumulate(runnable))
        ]
        return Load(
            queued=sum(runnable),
            in_flight=sum(len(one.in_flight) for one in pool.replicas.values()),
            offered_per_s=max(one.per_s(now_s) for one in self._arrivals),
            service_s=self._service_s.value,
            places_per_replica=pool.places / len(usable) if usable else pool.requests_per_replica,
            running=len(usable),
            starting=pool.starts(start_s, now_s),
            start_s=start_s,
            arrived=self._arrived,
            drain_s=drains_s[-1],
            drain_over_budget=tuple(
                (one.policy.name, drains_s[one.rank] / one.policy.ttft_budget_s)
                for one in queue.classes
                if runnable[one.rank]
            ),
            ttft_over_slo=self._ttft.value(now_s),
            tpot_over_slo=self._tpot.value(now_s),
            kv_use=sum(one.kv_use for one in metrics) / len(metrics) if metrics else None,
        )
