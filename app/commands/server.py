"""Which server a command talks to, and with whose key."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from app.loopback import is_loopback

DEFAULT_URL = "http://127.0.0.1:8000"
# Not an option: command lines are seen by everyone on the machine.
KEY_VARIABLE = "PROMISESERVE_API_KEY"


@dataclass(frozen=True, slots=True)
class Server:
    """`url` without a slash at its end; no key where the server has none."""

    url: str
    key: str | None = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.key is None else {"authorization": f"Bearer {self.key}"}

    @property
    def obeys_proxies(self) -> bool:
        """Whether a proxy of the environment's stands before it: not where it is this machine."""
        return not is_loopback(urlsplit(self.url).hostname or "")


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=DEFAULT_URL, help=f"where it is served ({DEFAULT_URL})")
    parser.epilog = f"An API key is read from the environment variable {KEY_VARIABLE}."


def server_of(arguments: argparse.Namespace) -> Server:
    """Raises ValueError for an address that is not HTTP's."""
    return server_at(arguments.url)


def server_at(address: str) -> Server:
    """With or without the `/v1` that OpenAI's clients want. Raises ValueError."""
    url = address.rstrip("/").removesuffix("/v1")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--url: {address!r}: not an http:// or https:// address")
    return Server(url, os.environ.get(KEY_VARIABLE) or None)


def plain_status(status: int, message: str, url: str) -> str:
    """A server's refusal in plain words; `message` is the server's own."""
    if status == 401:
        return f"{url} rejected the API key: {message} Set {KEY_VARIABLE}."
    if status == 429:
        return f"It is busy: {message}"
    if status == 503:
        return f"It can't answer now: {message}"
    return f"It refused the request ({status}): {message}"


def unreachable(url: str) -> ConnectionError:
    return ConnectionError(f"Nobody answers at {url}. `scripts/serve` starts a server; --url names another.")
