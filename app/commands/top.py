"""`app top`: what `/status` shows, for a terminal."""

from __future__ import annotations

import argparse
import contextlib
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from app.commands.server import Server, add_server_arguments, plain_status, server_of, unreachable

if TYPE_CHECKING:
    from app.status.view import StatusView

INTERVAL_S = 1.0
TIMEOUT_S = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_server_arguments(parser)
    parser.add_argument("--once", action="store_true", help="print it once, as where there is no terminal")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConnectionError where nobody answers or the page is not for this key."""
    from rich.console import Console
    from rich.live import Live

    from app.status.terminal import screen

    server, console = server_of(arguments), Console()
    view = fetch(server)
    if arguments.once or not console.is_terminal:
        console.print(screen(view))
        return 0
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(screen(view), console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            time.sleep(INTERVAL_S)
            live.update(screen(fetch(server)), refresh=True)
    return 0


def fetch(server: Server) -> StatusView:
    """The state now. Raises ConnectionError, in words for the person at the terminal."""
    import httpx

    from app.status.view import from_json

    try:
        answer = httpx.get(
            f"{server.url}/status.json",
            headers=server.headers,
            timeout=TIMEOUT_S,
            trust_env=server.obeys_proxies,
        )
    except httpx.HTTPError as error:
        raise unreachable(server.url) from error
    if answer.status_code == HTTPStatus.NOT_FOUND:
        raise ConnectionError(
            f"{server.url} shows no status here: `status` in its configuration says who may see it."
        )
    if answer.status_code != HTTPStatus.OK:
        raise ConnectionError(plain_status(answer.status_code, _message(answer), server.url))
    try:
        return from_json(answer.content)
    except ValueError as error:
        raise ConnectionError(f"{server.url}/status.json is of another version than this command.") from error


def _message(answer: object) -> str:
    import httpx

    assert isinstance(answer, httpx.Response)
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
