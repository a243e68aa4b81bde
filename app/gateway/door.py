"""What is checked of a request before its body: the size of its head, where it comes from, whose key it has,
how its body is written.

Nothing else of a client's headers is used, and none is passed on: tenant, class, priority and lease are the
gateway's to set.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.types import Scope

from app.gateway.errors import ApiError, shorten
from app.gateway.tenants import Tenants, bearer
from app.limits import RequestLimits
from app.loopback import is_loopback


def check_head(scope: Scope, limits: RequestLimits) -> None:
    """Raises ApiError 431 for too many or too large headers."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if len(headers) > limits.max_headers:
        raise ApiError(431, "headers_too_large", f"headers: more than {limits.max_headers}", "headers")
    size_bytes = sum(len(name) + len(value) for name, value in headers)
    if size_bytes + len(scope.get("query_string", b"")) > limits.max_header_bytes:
        reason = f"headers: more than {limits.max_header_bytes} bytes, the query included"
        raise ApiError(431, "headers_too_large", reason, "headers")


def announced_bytes(scope: Scope) -> int:
    """What the client says of its body; 0 where it says nothing that makes sense."""
    given = only(scope, b"content-length") or "0"
    return int(given) if given.isascii() and given.isdigit() and len(given) < 20 else 0


def check_coding(scope: Scope) -> None:
    """Raises ApiError 415 for a body that is compressed, or is said to be."""
    for coding in _given(scope, b"content-encoding"):
        if coding.strip().lower() not in ("", "identity"):
            reason = f"content-encoding: {shorten(coding)} is not read here: send the body as it is"
            raise ApiError(415, "unsupported_encoding", reason, "content-encoding")


def tenant_of(scope: Scope, keys: Tenants) -> str:
    """Raises ApiError 401; where everyone is let in 403 for who is not on this machine."""
    if keys.is_open and not is_local(scope):
        reason = "There are no keys here: only clients on this machine, and its own pages, are served."
        raise ApiError(403, "not_local", reason)
    return keys.tenant(bearer(only(scope, b"authorization")))


def is_local(scope: Scope) -> bool:
    """Without keys a loopback address is all that keeps others out: a browser's pages are others too, also
    those whose name has been made to lead here."""
    client = scope.get("client")
    pages = [_host(origin) for origin in _given(scope, b"origin")]
    names = [_host(f"//{host}") for host in _given(scope, b"host")]
    return client is not None and all(is_loopback(host) for host in [client[0], *pages, *names])


def _host(origin: str) -> str:
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def only(scope: Scope, name: bytes) -> str | None:
    """A header's value; None where it is missing, and where there are several and no way to tell which."""
    given = _given(scope, name)
    return given[0] if len(given) == 1 else None


def _given(scope: Scope, name: bytes) -> list[str]:
    # A key may have any characters; its bytes must stay what they are.
    return [value.decode(errors="surrogateescape") for key, value in scope["headers"] if key == name]
