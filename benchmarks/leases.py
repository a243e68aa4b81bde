"""How many leases one scheduler gives: its real deployment, and gateways that do nothing but ask it.

Each gateway is a Serve replica with the real control plane and a number of streams: a lease is asked for,
given, and closed as completed, again and again. One engine is said to be there, with a place for everybody,
so that nothing waits and only the way to the scheduler and back is measured. Requests of real gateways also
carry bytes: there, leases a second are fewer.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from typing import Any

from app.config import ApplicationConfig
from app.contract import EnginePort, Grant
from app.flow.outcome import Outcome
from app.flow.ticket import ReplicaReport, Ticket, Usage
from placement.simulation.summary import percentile

Json = dict[str, Any]
PORT = EnginePort("engine", "127.0.0.1", 1, "")
REPORT_S = 1.0
NAME = "leases"
TENANTS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gateways", type=int, nargs="+", default=[1, 2, 10])
    parser.add_argument("--streams", type=int, default=64, help="of all gateways together")
    parser.add_argument("--seconds", type=float, default=10.0)


def run(options: argparse.Namespace) -> Json:
    import ray
    from ray import serve

    ray.init(num_cpus=max(options.gateways) + 1, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        return {"streams": options.streams, "runs": [_measured(each, options) for each in options.gateways]}
    finally:
        serve.shutdown()
        ray.shutdown()


def _measured(gateways: int, options: argparse.Namespace) -> Json:
    from ray import serve

    from app.serving.application import scheduler_deployment

    config = _config(options.streams)
    streams = max(1, options.streams // gateways)
    callers = serve.deployment(AskingGateway, num_replicas=1, ray_actor_options={"num_cpus": 0})
    scheduler = scheduler_deployment(config).bind(config)
    # One deployment a gateway: each is asked by its own name.
    names = [f"Gateway{number}" for number in range(gateways)]
    root = serve.deployment(_Root, ray_actor_options={"num_cpus": 0})
    app = root.bind(*(callers.options(name=name).bind(scheduler) for name in names))
    handle = serve.run(app, name=NAME, route_prefix=None)
    began_s = time.perf_counter()
    waits_s = sorted(handle.ask.remote(streams, options.seconds).result())
    elapsed_s = time.perf_counter() - began_s
    serve.delete(NAME)
    return {
        "gateways": gateways,
        "leases_per_s": round(len(waits_s) / options.seconds, 1),
        "elapsed_s": round(elapsed_s, 1),
        "p50_ms": round(percentile(waits_s, 0.5) * 1000, 2),
        "p99_ms": round(percentile(waits_s, 0.99) * 1000, 2),
    }


def _config(streams: int) -> ApplicationConfig:
    engine = {
        "device": "cpu",
        "max_model_len": 1024,
        "max_num_seqs": 16 * streams,
        "max_num_batched_tokens": 16384,
    }
    model = {"name": "none", "source": "none"}
    return ApplicationConfig.model_validate({"model": model, "engine": engine, "open_without_keys": True})


class AskingGateway:
    """One gateway's share of the streams."""

    def __init__(self, scheduler: Any) -> None:
        from app.serving.control import ServeControlPlane

        self._scheduler = scheduler
        self._control = ServeControlPlane(scheduler, scheduler, uuid.uuid4().hex)

    async def ask(self, streams: int, seconds: float) -> list[float]:
        """Seconds from asking to the lease, of every lease within the time."""
        reporting = asyncio.get_running_loop().create_task(self._report_for_ever())
        try:
            end_s = time.perf_counter() + seconds
            each = await asyncio.gather(*(self._stream(number, end_s) for number in range(streams)))
            return [wait_s for waits_s in each for wait_s in waits_s]
        finally:
            reporting.cancel()

    async def _stream(self, number: int, end_s: float) -> list[float]:
        waits_s = []
        while (began_s := time.perf_counter()) < end_s:
            ticket = Ticket(
                uuid.uuid4().hex,
                0,
                time.time(),
                tenant=f"tenant-{number % TENANTS}",
                prompt_tokens=100,
                max_output_tokens=100,
            )
            grant = await self._control.acquire(ticket)
            if not isinstance(grant, Grant):
                raise RuntimeError(f"no lease: {grant}")
            waits_s.append(time.perf_counter() - began_s)
            await self._control.close(ticket.ticket_id, Outcome.COMPLETED, Usage(100, 50, 0.05))
        return waits_s

    async def _report_for_ever(self) -> None:
        while True:
            await self._scheduler.report.remote(ReplicaReport(PORT.replica_id, frozenset()), PORT, {})
            await asyncio.sleep(REPORT_S)


class _Root:
    """Asks all gateways at the same time."""

    def __init__(self, *gateways: Any) -> None:
        self._gateways = gateways

    async def ask(self, streams: int, seconds: float) -> list[float]:
        each = await asyncio.gather(*(one.ask.remote(streams, seconds) for one in self._gateways))
        return [wait_s for waits_s in each for wait_s in waits_s]


def table(figures: Json) -> str:
    lines = [
        f"{figures['streams']} streams in all",
        "",
        "| gateways | leases/s | P50 ms | P99 ms |",
        "| --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one['gateways']} | {one['leases_per_s']:.0f} | {one['p50_ms']:.1f} | {one['p99_ms']:.1f} |"
        for one in figures["runs"]
    ]
    return "\n".join(lines)
