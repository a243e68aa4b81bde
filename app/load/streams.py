"""One streamed completion over a connection of its own: what is sent, and what the client sees of it.

An `asyncio.Protocol` on httptools' parser: a client that spends more time on a token than the server does
would measure itself (`python -m benchmarks null` prints its ceiling).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from app import sse

# How servers say that they shed load, which is no failure of theirs: by a 429, or in an error's `code`, where
# vLLM writes the status and has no other than 503 for a full queue. Any other 503 says that nobody is there
# to answer: our `rejected_no_engine` and `engine_lost`, HAProxy's own page.
TOO_MANY = 429
SHED_CODES = (TOO_MANY, 503)
_OBJECT = sse.DATA + b"{"
DEFAULT_PORTS = {"http": 80, "https": 443}
COMPLETED, REFUSED, GAVE_UP, BROKEN, FAILED, UNREACHABLE = (
    "completed",
    "refused",
    "gave_up",
    "broken",
    "failed",
    "unreachable",
)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to send; `at_s` from the start of the run, for an open loop."""

    request_id: str
    path: str
    body: bytes
    at_s: float = 0.0
    tenant: str = ""
    class_name: str = ""
    key: str = ""

    def head(self, host: str) -> bytes:
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {host}",
            "Content-Type: application/json",
            f"Content-Length: {len(self.body)}",
            *([f"Authorization: Bearer {self.key}"] if self.key else []),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


@dataclass(slots=True)
class Answer:
    """What became of a call. Durations in seconds from the time at which it was due, not from its sending:
    a client that falls behind must not look like a fast server. None: it did not get so far."""

    request_id: str
    tenant: str
    class_name: str
    due_s: float
    sent_late_s: float = 0.0
    outcome: str = UNREACHABLE
    status: int = 0
    # The server's word for its refusal.
    code: str = ""
    retry_after_s: float | None = None
    predicted_ttft_s: float | None = None
    ttft_s: float | None = None
    ended_s: float = 0.0
    # By the server's usage; of a stream that broke, the chunks that came.
    prompt_tokens: int = 0
    output_tokens: int = 0
    gaps_s: list[float] = field(default_factory=list)
    returned: bool = False

    @property
    def tpot_s(self) -> float | None:
        """(end to end - time to first token) / (output - 1); None for an output of one token."""
        if self.ttft_s is None or self.output_tokens < 2:
            return None
        return (self.ended_s - self.ttft_s) / (self.output_tokens - 1)


def completion(
    model: str, prompt: str | Sequence[int], tokens: int, class_name: str = "", priority: int | None = None
) -> bytes:
    """Body for `/v1/completions`: exactly `tokens` tokens, streamed, with usage. `prompt`: text or tokens;
    `priority`: vLLM's field, the lower the sooner."""
    return _body(model, tokens, class_name, priority, prompt=prompt)


def chat(model: str, prompt: str, tokens: int, class_name: str = "", priority: int | None = None) -> bytes:
    """Body for `/v1/chat/completions`, likewise."""
    return _body(model, tokens, class_name, priority, messages=[{"role": "user", "content": prompt}])


PATHS = {"completions": ("/v1/completions", completion), "chat": ("/v1/chat/completions", chat)}


def _body(model: str, tokens: int, class_name: str, priority: int | None, **content: Any) -> bytes:
    fields = {"model": model, "max_tokens": tokens, "ignore_eos": True, "temperature": 0.0, "stream": True}
    tier = {"service_tier": class_name} if class_name else {}
    rank = {} if priority is None else {"priority": priority}
    return json.dumps(fields | {"stream_options": {"include_usage": True}} | tier | rank | content).encode()


async def send(
    url: str,
    call: Call,
    due_s: float,
    timeout_s: float,
    returned: bool = False,
    started: asyncio.Event | None = None,
) -> Answer:
    """Sends the call now. `due_s` is on `time.perf_counter`; the client gives up `timeout_s` after it.

    `started` is set with the first token. Cancelled, it breaks the connection: its client has left.
    """
    answer = Answer(call.request_id, call.tenant, call.class_name, due_s, returned=returned)
    answer.sent_late_s = time.perf_counter() - due_s
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or DEFAULT_PORTS[address.scheme]
    exchange = _Exchange(call.head(address.netloc) + call.body, started)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s - answer.sent_late_s):
            await loop.create_connection(lambda: exchange, host, port, ssl=address.scheme == "https" or None)
            await exchange.done
        answer.outcome = FAILED
    except TimeoutError:
        answer.outcome = GAVE_UP
    except OSError:
        answer.outcome = UNREACHABLE
    finally:
        exchange.close()
    _fill(answer, exchange, due_s)
    return answer


def _fill(answer: Answer, exchange: _Exchange, due_s: float) -> None:
    answer.ended_s = (exchange.ended_s or time.perf_counter()) - due_s
    answer.status, answer.retry_after_s = exchange.status, exchange.number("retry-after")
    predicted_ms = exchange.number("x-predicted-ttft-ms")
    answer.predicted_ttft_s = None if predicted_ms is None else predicted_ms / 1000
    last = exchange.last_object()
    usage = last.get("usage") or {}
    times_s = exchange.times_s[:-1] if last.get("choices") == [] else exchange.times_s
    answer.prompt_tokens = usage.get("prompt_tokens", 0)
    answer.output_tokens = usage.get("completion_tokens", len(times_s))
    if times_s:
        answer.ttft_s = times_s[0] - due_s
        answer.gaps_s = [later - earlier for earlier, later in pairwise(times_s)]
    if answer.outcome == FAILED:
        answer.outcome, answer.code = _outcome(exchange.status, last, usage, started=bool(times_s))


def _outcome(status: int, last: dict[str, Any], usage: dict[str, Any], started: bool) -> tuple[str, str]:
    """The outcome, and the server's code for it. A refusal may also be the only event of a 200."""
    error = last.get("error") or {}
    code = error.get("code") or error.get("type") or ""
    if not started and (status == TOO_MANY or code in SHED_CODES):
        return REFUSED, str(code)
    if status != 200:
        return (FAILED if status else UNREACHABLE), str(code)
    return (COMPLETED if usage else BROKEN), str(code)


class _Exchange(asyncio.Protocol):
    """Request out, events in, each with the time at which it came."""

    def __init__(self, request: bytes, started: asyncio.Event | None) -> None:
        self._request = request
        self._started = started
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._headers: dict[bytes, bytes] = {}
        self._rest = b""
        self._last = b""
        self._now_s = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.ended_s = 0.0
        # Of the first token and of every event after it.
        self.times_s: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._now_s = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._now_s = time.perf_counter()
        self._end()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        *events, self._rest = (self._rest + body).split(sse.END)
        for event in events:
            if event.startswith(_OBJECT):
                self._last = event
                if self.times_s or _has_token(event):
                    self.times_s.append(self._now_s)
                    if self._started is not None:
                        self._started.set()

    def on_message_complete(self) -> None:
        self._end()

    def _end(self) -> None:
        if not self.done.done():
            self.ended_s = self._now_s
            self.done.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def number(self, header: str) -> float | None:
        text = self._headers.get(header.encode(), b"").decode("ascii", "replace")
        return float(text) if text.replace(".", "", 1).isdigit() else None

    def last_object(self) -> dict[str, Any]:
        """The last event before `[DONE]`, or the whole body of an answer that is no stream."""
        try:
            value = json.loads(self._last.removeprefix(sse.DATA) or self._rest)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


def _has_token(event: bytes) -> bool:
    """False for a chat's first chunk, which only names the role, and for errors."""
    choices = json.loads(event.removeprefix(sse.DATA)).get("choices")
    if not choices:
        return False
    delta = choices[0].get("delta", {})
    return not ("role" in delta and not delta.get("content"))
