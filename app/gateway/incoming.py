"""Bytes of bodies that are still coming: no ticket counts them yet, and this process holds them.

A body of 4 MiB has `limits.body_timeout_s` to come, so that clients that stop just before its end could fill
the memory of a gateway without ever being refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.contract import Refusal
from app.flow.config import FlowConfig
from app.flow.outcome import Outcome
from app.gateway.errors import refused

# By then some of them have come whole, or have been given up.
RETRY_AFTER_S = 1


class Arriving:
    """One body."""

    def __init__(self, incoming: Incoming, tenant: str) -> None:
        self._incoming = incoming
        self._tenant = tenant
        self.size_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Raises ApiError 429 where this is more than may be coming at a time."""
        self._incoming.add(self._tenant, size_bytes)
        self.size_bytes += size_bytes


class Incoming:
    """The bodies that are coming to one gateway, bounded as those of tickets are: of all, and by tenant."""

    def __init__(self, flow: FlowConfig, max_bytes: int) -> None:
        self._flow = flow
        self._max_bytes = max_bytes
        self._bytes = 0
        self._by_tenant: dict[str, int] = {}

    @contextmanager
    def body(self, tenant: str) -> Iterator[Arriving]:
        """Until it is a ticket, or is given up."""
        arriving = Arriving(self, tenant)
        try:
            yield arriving
        finally:
            self._bytes -= arriving.size_bytes
            left = self._by_tenant.get(tenant, 0) - arriving.size_bytes
            if left > 0:
                self._by_tenant[tenant] = left
            else:
                self._by_tenant.pop(tenant, None)

    def add(self, tenant: str, size_bytes: int) -> None:
        """Raises ApiError 429; then nothing is added."""
        of_tenant = self._by_tenant.get(tenant, 0) + size_bytes
        if of_tenant > self._flow.policy_of(tenant).max_bytes:
            raise refused(Refusal(Outcome.REJECTED_TENANT_BYTES, RETRY_AFTER_S))
        if self._bytes + size_bytes > self._max_bytes:
            raise refused(Refusal(Outcome.REJECTED_FULL, RETRY_AFTER_S))
        self._bytes += size_bytes
        self._by_tenant[tenant] = of_tenant
