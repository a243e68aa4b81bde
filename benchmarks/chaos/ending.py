"""SIGTERM to `scripts/serve` under load: what becomes of every request, and of every process."""

from __future__ import annotations

import asyncio
import time

import httpx
import psutil

from benchmarks.chaos.account import Account, count
from benchmarks.chaos.cell import PHASE_TIMEOUT_S, Application, load, read, until
from benchmarks.chaos.client import Attempt, Known, client_of
from benchmarks.chaos.parts import title, tree

NAME = "application:term:queued"
# Streams, then Serve's own end, then what is left by its id (app/serving/launch.py).
END_TIMEOUT_S = 90.0


async def end_under_load(application: Application, known: Known, pid: int) -> Account:
    """`pid` is the launcher's. `settled_s` is when it had ended; `orphans` names what was there after it."""
    account = Account(NAME, 0)
    async with client_of(application.url) as client, httpx.AsyncClient(timeout=5.0) as http:
        attempts = [Attempt(ask) for ask in load("queued", application.places)]
        tasks = []
        for attempt in attempts:
            tasks.append(asyncio.create_task(attempt.run(client, application.model, known)))
            await asyncio.sleep(0.01)

        async def queued() -> bool:
            return (await read(http, application.url)).queued >= application.places / 2

        await until(queued, PHASE_TIMEOUT_S, "a queue")
        # Not a second node's, which outlives it by right.
        family = tree(pid)()
        launcher = psutil.Process(pid)
        launcher.terminate()
        at_s = time.monotonic()
        await asyncio.gather(*tasks)
        count(account, attempts, at_s)

        async def ended() -> bool:
            return not title(launcher)

        await until(ended, END_TIMEOUT_S, "the launcher's end", every_s=0.2)
        account.settled_s = time.monotonic() - at_s
        account.orphans = [f"{process.pid} {name}" for process in family if (name := title(process))]
    return account
