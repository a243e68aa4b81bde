"""Where Serve listens: a gateway that lets everyone in must not be reachable from elsewhere.

Ray 2.60 tells it through no public call; what is private to Serve stays in this file.
"""

from __future__ import annotations

from ray.serve.context import _get_global_client

from app.loopback import is_loopback


async def require_loopback() -> None:
    """Raises ValueError when Serve listens on an address that other machines reach."""
    http = await _get_global_client()._controller.get_http_config.remote()
    # None: it does not listen at all.
    if http.host is not None and not is_loopback(http.host):
        raise ValueError(
            f"open_without_keys: True: without keys only on a loopback address, and Serve's HTTP host is "
            f"{http.host}. Set http_options.host to 127.0.0.1, or configure keys."
        )
