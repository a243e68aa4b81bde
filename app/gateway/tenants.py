"""Who asks: an API key belongs to one tenant. Keys are known by their hashes only."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Protocol

from app.gateway.errors import ApiError

# Of everybody, where there are no keys and the configuration says that this is meant.
OPEN_TENANT = "default"


class Tenants(Protocol):
    """Fixed keys (`ApiKeys`), or those of a file that may change (app/gateway/key_sources.py)."""

    def tenant(self, key: str | None) -> str:
        """Raises ApiError 401 for a key that is missing or not known."""

    @property
    def is_open(self) -> bool:
        """True where everyone is let in."""


class ApiKeys:
    """Tenants by the SHA-256 of their keys (hexadecimal, lower case).

    Raises ValueError without any key, unless `open_without_keys`, and for a key of two tenants.
    """

    def __init__(
        self, hashes_by_tenant: Mapping[str, Iterable[str]], *, open_without_keys: bool = False
    ) -> None:
        owners: dict[str, str] = {}
        for tenant, hashes in hashes_by_tenant.items():
            for hash_ in hashes:
                if owners.setdefault(hash_, tenant) != tenant:
                    raise ValueError(f"a key of {tenant!r} is {owners[hash_]!r}'s already")
        if not owners and not open_without_keys:
            raise ValueError("there is no key, and open_without_keys is false: nobody could be served")
        self._owners = [(bytes.fromhex(hash_), tenant) for hash_, tenant in owners.items()]

    @property
    def is_open(self) -> bool:
        return not self._owners

    def tenant(self, key: str | None) -> str:
        """Raises ApiError 401. Every key takes the same time: hashed whole, compared with every hash."""
        if self.is_open:
            return OPEN_TENANT
        if key is None:
            raise ApiError(401, "missing_api_key", "authorization: a key is needed, as `Bearer KEY`")
        try:
            given = str.encode(key, errors="surrogateescape")
        except (TypeError, UnicodeEncodeError):
            # Of a call by handle: no text, or one that no header could bring.
            raise _unknown() from None
        digest = hashlib.sha256(given).digest()
        found = [tenant for known, tenant in self._owners if hmac.compare_digest(known, digest)]
        if not found:
            raise _unknown()
        return found[0]


def _unknown() -> ApiError:
    return ApiError(401, "invalid_api_key", "authorization: the key is not known here")


def bearer(authorization: str | None) -> str | None:
    """The key of an `Authorization` header; None without one in that form."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
