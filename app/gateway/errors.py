"""Errors as clients see them: OpenAI's schema over HTTP, a typed exception on the handle."""

from __future__ import annotations

import json
from typing import Any

from app.flow.outcome import Outcome

_TYPE_BY_STATUS = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is not answered. Crosses process borders whole.

    `status` is the HTTP status; `param` names the field at fault; `retry_after_s` says when to come back.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(status, code, message, param, retry_after_s)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"

    @property
    def type(self) -> str:
        if self.status in _TYPE_BY_STATUS:
            return _TYPE_BY_STATUS[self.status]
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def payload(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def body(self) -> bytes:
        return json.dumps(self.payload()).encode()

    def sse_event(self) -> bytes:
        """How the error ends a stream that has begun."""
        return b"data: " + self.body() + b"\n\n"

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", b"application/json")]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(self.retry_after_s).encode()))
        elif self.status in (429, 503):
            headers.append((b"x-should-retry", b"false"))
        return headers


def invalid(param: str, value: object, reason: str, code: str = "invalid_value") -> ApiError:
    """400: the field, the value (shortened) and the reason."""
    return ApiError(400, code, f"{param}: {shorten(value)} {reason}", param)


def refused(outcome: Outcome, retry_after_s: int | None) -> ApiError:
    """The scheduler's refusal, with its own status; without a time where none can be named."""
    assert outcome.status is not None
    again = "" if retry_after_s is None else f" Try again in {retry_after_s} s."
    return ApiError(
        outcome.status,
        outcome.label,
        f"{outcome.reason}{again}",
        retry_after_s=retry_after_s,
    )


def engine_lost(retry_after_s: int) -> ApiError:
    """The engine went away while it worked on the request."""
    return ApiError(
        503,
        "engine_lost",
        f"The engine failed while it worked on the request. Try again in {retry_after_s} s.",
        retry_after_s=retry_after_s,
    )


# Enough to recognise a value by, too little to carry a prompt into a log.
SHOWN_VALUE_CHARS = 60


def shorten(value: object) -> str:
    """A value as JSON-like text of at most SHOWN_VALUE_CHARS characters."""
    text = repr(value)
    return text if len(text) <= SHOWN_VALUE_CHARS else text[: SHOWN_VALUE_CHARS - 1] + "…"
