"""`python -m app.serving.withdraw NAME...`: takes applications away in order, and returns when they are gone.

What waits is refused, streams go on until they end or their time is up. A `serve run` that is interrupted,
and `serve shutdown`, end HAProxy first, and every connection with it.
"""

from __future__ import annotations

import logging
import sys

import ray
from ray import serve


def withdraw(names: list[str]) -> None:
    """Blocks for as long as each application takes to drain. RAY_ADDRESS says of which cluster."""
    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
    for name in names:
        serve.delete(name)


if __name__ == "__main__":
    withdraw(sys.argv[1:])
