"""`python -m app.serving.withdraw NAME...`: takes applications away in order, and returns when they are gone.

What waits is refused, streams go on until they end or their time is up. A `serve run` that is interrupted,
and `serve shutdown`, end HAProxy first, and every connection with it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

import ray
from ray import serve

POLL_INTERVAL_S = 1.0
UNKNOWN = 2


def withdraw(names: list[str]) -> int:
    """Blocks for as long as they take to drain, all at once. RAY_ADDRESS says of which cluster.

    Returns the exit status: UNKNOWN where the cluster has no application of one of the names; the others go
    all the same.
    """
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    there = serve.status().applications
    unknown = [name for name in names if name not in there]
    for name in unknown:
        print(f"NAME: {name}: not served; there are: {', '.join(there) or 'none'}", file=sys.stderr)
    for name in names:
        if name in there:
            # Serve itself would wait for each in turn, and for no longer than a minute.
            serve.delete(name, _blocking=False)
    while not serve.status().applications.keys().isdisjoint(names):
        time.sleep(POLL_INTERVAL_S)
    return UNKNOWN if unknown else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m app.serving.withdraw", description="Takes applications away.")
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a running application, such as llm")
    sys.exit(withdraw(parser.parse_args().names))
