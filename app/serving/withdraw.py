"""`python -m app.serving.withdraw NAME...`: takes applications away in order, and returns when they are gone.

What waits is refused, streams go on until they end or their time is up. A `serve run` that is interrupted,
and `serve shutdown`, end HAProxy first, and every connection with it.
"""

from __future__ import annotations

import logging
import sys
import time

import ray
from ray import serve

POLL_INTERVAL_S = 1.0


def withdraw(names: list[str]) -> None:
    """Blocks for as long as they take to drain, all at once. RAY_ADDRESS says of which cluster."""
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    for name in names:
        # Serve itself would wait for each in turn, and for no longer than a minute.
        serve.delete(name, _blocking=False)
    while not serve.status().applications.keys().isdisjoint(names):
        time.sleep(POLL_INTERVAL_S)


if __name__ == "__main__":
    withdraw(sys.argv[1:])
