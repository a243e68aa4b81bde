"""Who asks: an API key belongs to one tenant. Keys are known by their hashes only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from app.gateway.errors import ApiError

# Of everybody, where the configuration has no keys.
OPEN_TENANT = "default"


class ApiKeys:
    """Tenants by the SHA-256 of their keys (hexadecimal, lower case); without keys everyone is let in.

    The whole key is hashed, so a lookup by its hash takes a time that tells nothing of any key.
    """

    def __init__(self, hashes_by_tenant: Mapping[str, Sequence[str]]) -> None:
        self._tenants = {hash_: tenant for tenant, hashes in hashes_by_tenant.items() for hash_ in hashes}

    def tenant(self, key: str | None) -> str:
        """Raises ApiError 401 for a key that is missing or not known."""
        if not self._tenants:
            return OPEN_TENANT
        if key is None:
            raise ApiError(401, "missing_api_key", "authorization: a key is needed, as `Bearer KEY`")
        tenant = self._tenants.get(hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest())
        if tenant is None:
            raise ApiError(401, "invalid_api_key", "authorization: the key is not known here")
        return tenant


def bearer(authorization: str | None) -> str | None:
    """The key of an `Authorization` header; None without one in that form."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None
