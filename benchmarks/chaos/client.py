"""One request with OpenAI's own client, and what became of it, judged by the answer that is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import httpx
import openai
from openai.types import Completion

# A client waits for longer than the slowest detection of a frozen part takes (docs/operations.md).
CLIENT_TIMEOUT_S = 90.0
# Greedy, and as many tokens as are asked for.
OPTIONS: dict[str, Any] = {"temperature": 0.0, "extra_body": {"ignore_eos": True}}


class Fate(Enum):
    """How a request ended, as its client sees it."""

    COMPLETED = "completed"
    # A refusal or an error in OpenAI's schema, instead of an answer or at the end of a stream.
    ERROR = "error"
    # The connection broke: no silence either, the client's library raises.
    BROKEN = "broken"
    # Less than the known answer, and nothing that says so.
    TRUNCATED = "truncated"
    # Something else than the known answer: tokens twice, or another request's.
    DIFFERENT = "different"
    # No end at all within the client's patience.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Ask:
    """A greedy completion of exactly `tokens` tokens."""

    prompt: str
    tokens: int
    stream: bool


# By prompt and length: what an engine answers that nobody disturbs.
Known = Mapping[tuple[str, int], str]


class Attempt:
    """A request under way: `chunks` that have come, and the fate once it is known. Times are monotonic."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.sent_s = time.monotonic()
        self.first_s: float | None = None
        self.ended_s: float | None = None
        self.chunks = 0
        self.text = ""
        self.fate: Fate | None = None
        self.detail = ""

    async def run(self, client: openai.AsyncOpenAI, model: str, known: Known) -> None:
        self.sent_s = time.monotonic()
        try:
            async with asyncio.timeout(CLIENT_TIMEOUT_S):
                finished = await self._receive(client, model)
            self.fate = self._judged(known, finished)
        except TimeoutError:
            self.fate = Fate.LOST
        except (openai.APIConnectionError, httpx.HTTPError) as error:
            self.fate, self.detail = Fate.BROKEN, repr(error.__cause__ or error)
        except openai.APIError as error:
            self.fate, self.detail = Fate.ERROR, f"{getattr(error, 'status_code', '')} {error.code} {error}"
        if self.fate in (Fate.ERROR, Fate.BROKEN) and not self._expected(known).startswith(self.text):
            self.fate = Fate.DIFFERENT
        self.ended_s = time.monotonic()

    async def _receive(self, client: openai.AsyncOpenAI, model: str) -> bool:
        """True when the answer says that it is finished."""
        ask = self.ask
        answer = await client.completions.create(
            model=model, prompt=ask.prompt, max_tokens=ask.tokens, stream=ask.stream, **OPTIONS
        )
        if isinstance(answer, Completion):
            self.first_s = time.monotonic()
            self.text = answer.choices[0].text
            return answer.choices[0].finish_reason == "length"
        finished = False
        async for chunk in answer:
            self.first_s = self.first_s or time.monotonic()
            self.chunks += 1
            for choice in chunk.choices:
                self.text += choice.text
                finished = finished or choice.finish_reason is not None
        return finished

    def _judged(self, known: Known, finished: bool) -> Fate:
        expected = self._expected(known)
        if finished and self.text == expected:
            return Fate.COMPLETED
        return Fate.TRUNCATED if expected.startswith(self.text) else Fate.DIFFERENT

    def _expected(self, known: Known) -> str:
        return known[self.ask.prompt, self.ask.tokens]


def client_of(url: str) -> openai.AsyncOpenAI:
    """OpenAI's client without its own retries: what it would hide is what is counted here."""
    # A connection a request: a kept one that the server has closed looks like a fault.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    # OpenAI's client takes it, whether its types name httpx or what follows that.
    http: Any = httpx.AsyncClient(limits=limits, timeout=CLIENT_TIMEOUT_S)
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, http_client=http)


async def learn(url: str, model: str, asks: Iterable[Ask]) -> dict[tuple[str, int], str]:
    """The answers of an undisturbed application."""
    pairs = sorted({(ask.prompt, ask.tokens) for ask in asks})
    async with client_of(url) as client:
        answers = await asyncio.gather(
            *(
                client.completions.create(model=model, prompt=prompt, max_tokens=tokens, **OPTIONS)
                for prompt, tokens in pairs
            )
        )
    return {pair: answer.choices[0].text for pair, answer in zip(pairs, answers, strict=True)}
