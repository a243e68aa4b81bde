"""Errors as clients see them: OpenAI's schema over HTTP, a typed exception on the handle."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from app import sse
from app.contract import RateLimits, Refusal
from app.gateway.headers import rate_limit_headers

# When an engine was lost: another, or its successor, takes about this long.
ENGINE_LOST_RETRY_AFTER_S = 5
# A look costs little, and the next scheduler may be there at once.
SCHEDULER_RETRY_AFTER_S = 1
_COME_BACK = f"Try again in {ENGINE_LOST_RETRY_AFTER_S} s."

# Of a name that the client has made up.
MAX_SHOWN_KEY = 32

_TYPE_BY_STATUS = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is not answered. Crosses process borders whole.

    `status` is the HTTP status; `param` names the field at fault; `retry_after_s` says when to come back,
    `predicted_wait_s` for how long the first token would have been waited for; `retryable` is False where
    the same request will not do better later; `allow` is the method that the path has instead.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after_s: int | None = None,
        predicted_wait_s: float | None = None,
        rate_limits: RateLimits | None = None,
        retryable: bool = True,
        allow: str | None = None,
    ) -> None:
        super().__init__(
            status, code, message, param, retry_after_s, predicted_wait_s, rate_limits, retryable, allow
        )
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.predicted_wait_s = predicted_wait_s
        self.rate_limits = rate_limits
        self.retryable = retryable
        self.allow = allow

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"

    @property
    def type(self) -> str:
        if self.status in _TYPE_BY_STATUS:
            return _TYPE_BY_STATUS[self.status]
        return "server_error" if self.status >= 500 else "invalid_request_error"

    def payload(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        if self.predicted_wait_s is not None:
            return {"error": {**error, "predicted_wait_s": round(self.predicted_wait_s, 3)}}
        return {"error": error}

    def body(self) -> bytes:
        return json.dumps(self.payload()).encode()

    def sse_event(self) -> bytes:
        """How the error ends a stream that has begun."""
        return sse.event(self.body())

    def headers(self) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", b"application/json")]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(self.retry_after_s).encode()))
        if not self.retryable:
            # OpenAI's client would try again all the same.
            headers.append((b"x-should-retry", b"false"))
        if self.allow is not None:
            headers.append((b"allow", self.allow.encode()))
        if self.rate_limits is not None:
            headers += rate_limit_headers(self.rate_limits)
        return headers


def invalid(param: str, value: object, reason: str, code: str = "invalid_value") -> ApiError:
    """400: the field, the value (shortened) and the reason."""
    return ApiError(400, code, f"{param}: {shorten(value)} {reason}", param)


def exceeds(param: str, size: str, limit: int) -> ApiError:
    """400: the field and its size, not its value."""
    return ApiError(400, "invalid_value", f"{param}: {size} exceed the limit of {limit}", param)


def place(parts: Iterable[object]) -> str:
    """A field by its path, with dots; of names that a client has made up only the beginning."""
    return ".".join(str(part)[:MAX_SHOWN_KEY] for part in parts) or "body"


def unknown_path(path: str) -> ApiError:
    return ApiError(404, "unknown_path", f"path: {shorten(path)} is not served here", "path")


def half_pair(param: str, error: UnicodeEncodeError) -> ApiError:
    """400: JSON can write half of a surrogate pair, UTF-8 can't."""
    character = error.object[error.start : error.end]
    return invalid(param, character, "is half of a surrogate pair, not a character")


def refused(refusal: Refusal) -> ApiError:
    """The scheduler's refusal, with its own status."""
    outcome, retry_after_s = refusal.outcome, refusal.retry_after_s
    assert outcome.status is not None
    retryable = retry_after_s is not None
    hint = f"Try again in {retry_after_s} s." if retryable else "No place can be kept for a retry."
    return ApiError(
        outcome.status,
        outcome.label,
        f"{outcome.reason} {hint}",
        retry_after_s=retry_after_s,
        predicted_wait_s=refusal.predicted_wait_s,
        rate_limits=refusal.rate_limits,
        retryable=retryable,
    )


def internal_error() -> ApiError:
    """Of what nobody expected, to a client, no more."""
    return ApiError(500, "internal_error", "The server failed on this request.")


def engine_lost() -> ApiError:
    """The engine went away while it worked on the request."""
    message = f"The engine failed while it worked on the request. {_COME_BACK}"
    return ApiError(503, "engine_lost", message, retry_after_s=ENGINE_LOST_RETRY_AFTER_S)


def engine_busy() -> ApiError:
    """The engine has refused what it was sent, for its own queue is full."""
    message = f"The engine has too many answers to give. {_COME_BACK}"
    return ApiError(503, "engine_busy", message, retry_after_s=ENGINE_LOST_RETRY_AFTER_S)


def reader_stalled(stall_s: float) -> ApiError:
    """By handle; over HTTP the connection breaks."""
    message = f"The answer has ended: nothing of it was taken for {stall_s:g} s, or little again and again."
    return ApiError(408, "reader_stalled", message, retryable=False)


def scheduler_unreachable(retry_after_s: int = SCHEDULER_RETRY_AFTER_S) -> ApiError:
    """It restarts, or has yet to come."""
    message = f"The scheduler does not answer. Try again in {retry_after_s} s."
    return ApiError(503, "scheduler_unreachable", message, retry_after_s=retry_after_s)


# Enough to recognise a value by, too little to carry a prompt into a log.
SHOWN_VALUE_CHARS = 60


def shorten(value: object) -> str:
    """A value as JSON-like text of at most SHOWN_VALUE_CHARS characters."""
    text = repr(value)
    return text if len(text) <= SHOWN_VALUE_CHARS else text[: SHOWN_VALUE_CHARS - 1] + "…"
