"""`app chat`: a talk with the model, word by word as it comes."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from app.commands.server import Server, add_server_arguments, plain_status, server_of, unreachable
from app.printable import printable

if TYPE_CHECKING:
    import openai
    from rich.console import Console

# A model that starts to answer is quick; one that is queued may wait for as long as its class allows.
TIMEOUT_S = 120.0
CONTEXT_EXCEEDED = "context_length_exceeded"

Message = dict[str, str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_server_arguments(parser)
    parser.add_argument("--model", help="its name (the one that is served)")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the talk")
    parser.add_argument("--max-tokens", type=int, default=512, help="bound of one answer (512)")
    parser.add_argument("--tier", metavar="NAME", help="service tier or class of the requests")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConnectionError where nobody answers or the key is refused, ValueError for a bad address."""
    from rich.console import Console

    server = server_of(arguments)
    client = client_of(server)
    console = Console(highlight=False)
    talk = Talk(client, server, arguments.model or _served(client, server), arguments, console)
    console.print(f"{talk.model} at {server.url}. Ctrl-C stops an answer, Ctrl-D ends the talk.", style="dim")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while line := console.input("[bold]you[/] ").strip():
            talk.say(line)
    console.print()
    return 0


def client_of(server: Server) -> openai.OpenAI:
    """Who waits for an answer sees a refusal at once: no silent tries."""
    import openai

    return openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key=server.key or "unused",
        max_retries=0,
        timeout=TIMEOUT_S,
        http_client=openai.DefaultHttpxClient(trust_env=server.obeys_proxies),
    )


class Talk:
    """The messages so far; only what was answered stays among them."""

    def __init__(
        self,
        client: openai.OpenAI,
        server: Server,
        model: str,
        arguments: argparse.Namespace,
        console: Console,
    ) -> None:
        self.model = model
        self._client = client
        self._server = server
        self._console = console
        self._options: dict[str, Any] = {"max_tokens": arguments.max_tokens}
        if arguments.tier:
            self._options["service_tier"] = arguments.tier
        self._system = [{"role": "system", "content": arguments.system}] if arguments.system else []
        self._turns: list[Message] = []

    def say(self, text: str) -> None:
        """One exchange; the server's errors are shown, and the talk goes on. Ctrl-C ends only the answer."""
        import openai

        question = {"role": "user", "content": text}
        while True:
            try:
                answer = self._show(question)
            except KeyboardInterrupt:
                self._console.print(" (stopped)", style="dim")
            except openai.APIError as error:
                if code_of(error) == CONTEXT_EXCEEDED and self._turns:
                    self._console.print("The talk is too long for the model: its oldest part is left out.")
                    del self._turns[:2]
                    continue
                self._console.print(plain(error, self._server), style="red", markup=False)
            else:
                self._turns += [question, {"role": "assistant", "content": answer}]
            return

    def _show(self, question: Message) -> str:
        """Prints the answer as it comes, and how fast that was; the answer."""
        console, parts, tokens = self._console, list[str](), 0
        asked_s = first_s = time.monotonic()
        with contextlib.closing(self._ask(question)) as chunks:
            for text, total in chunks:
                if text and not parts:
                    first_s = time.monotonic()
                    console.print(self.model, style="bold", end=" ")
                console.print(printable(text), end="", markup=False, soft_wrap=True)
                parts += [text] if text else []
                tokens = total or tokens
        ended_s = time.monotonic()
        console.print()
        console.print(pace(first_s - asked_s, ended_s - first_s, tokens), style="dim")
        return "".join(parts)

    def _ask(self, question: Message) -> Generator[tuple[str, int]]:
        """Pieces of the answer; with the last one its length in tokens."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [*self._system, *self._turns, question],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._options,
        }
        stream = self._client.chat.completions.create(**body)
        with stream:
            for chunk in stream:
                text = chunk.choices[0].delta.content if chunk.choices else None
                yield text or "", chunk.usage.completion_tokens if chunk.usage else 0


def _served(client: openai.OpenAI, server: Server) -> str:
    import openai

    try:
        return client.models.list().data[0].id
    except openai.APIError as error:
        raise ConnectionError(plain(error, server)) from error


def plain(error: openai.APIError, server: Server) -> str:
    """What went wrong, in words for the person at the terminal."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return f"No answer within {TIMEOUT_S:.0f} s."
    if isinstance(error, openai.APIConnectionError):
        return str(unreachable(server.url))
    message = error.body.get("message", error.message) if isinstance(error.body, dict) else error.message
    if isinstance(error, openai.APIStatusError):
        return plain_status(error.status_code, message, server.url)
    return f"The answer broke off: {message}"


def code_of(error: openai.APIError) -> str | None:
    return error.body.get("code") if isinstance(error.body, dict) else None


def pace(first_token_s: float, rest_s: float, tokens: int) -> str:
    """`first token after 0.21 s, 34 tokens at 25 a second`."""
    text = f"first token after {first_token_s:.2f} s, {tokens} tokens"
    return f"{text} at {(tokens - 1) / rest_s:.3g} a second" if tokens > 1 and rest_s > 0 else text
