"""What is checked of a request before its body: the size of its head, where it comes from, whose key it has.

Nothing else of a client's headers is used, and none is passed on: tenant, class, priority and lease are the
gateway's to set.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import Scope

from app.config_file import is_loopback
from app.gateway.errors import ApiError
from app.gateway.tenants import Tenants, bearer
from app.limits import RequestLimits


def check_head(scope: Scope, limits: RequestLimits) -> None:
    """Raises ApiError 431 for too many or too large headers, 413 for a body that is announced too large."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if len(headers) > limits.max_headers:
        raise ApiError(431, "headers_too_large", f"headers: more than {limits.max_headers}", "headers")
    size_bytes = sum(len(name) + len(value) for name, value in headers)
    if size_bytes + len(scope.get("query_string", b"")) > limits.max_header_bytes:
        reason = f"headers: more than {limits.max_header_bytes} bytes, the query included"
        raise ApiError(431, "headers_too_large", reason, "headers")


def announced_bytes(scope: Scope) -> int:
    """What the client says of its body; 0 where it says nothing that makes sense."""
    given = _only(scope, b"content-length") or "0"
    return int(given) if given.isascii() and given.isdigit() and len(given) < 20 else 0


def tenant_of(scope: Scope, keys: Tenants) -> str:
    """Raises ApiError 401; where everyone is let in 403 for who is not on this machine."""
    if keys.is_open:
        _check_local(scope)
    return keys.tenant(bearer(_only(scope, b"authorization")))


def _check_local(scope: Scope) -> None:
    """Without keys a loopback address is all that keeps others out: a browser's pages are others too."""
    client = scope.get("client")
    if client is None or not is_loopback(client[0]):
        raise ApiError(403, "not_local", "There are no keys here: only clients on this machine are served.")
    origin = _only(scope, b"origin")
    if origin is not None and not is_loopback(_host(origin)):
        raise ApiError(403, "not_local", "origin: pages from elsewhere are not served without keys", "origin")


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def _only(scope: Scope, name: bytes) -> str | None:
    """A header's value; None where it is missing, and where there are several and no way to tell which."""
    given = [value for key, value in scope["headers"] if key == name]
    # A key may have any characters; its bytes must stay what they are.
    return given[0].decode(errors="surrogateescape") if len(given) == 1 else None
