"""IPv6 beside IPv4: a host with colons has a family of its own, and brackets in a URL."""

from __future__ import annotations

import socket


def family(host: str) -> socket.AddressFamily:
    """Of a socket that listens there; names are IPv4's."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def in_url(host: str) -> str:
    """Without brackets its colons would be the port's."""
    return f"[{host}]" if ":" in host else host
