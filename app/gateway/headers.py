"""Response headers that say how a request fared."""

from __future__ import annotations

from app.contract import Grant, RateLimits

Headers = list[tuple[bytes, bytes]]


def rate_limit_headers(limits: RateLimits) -> Headers:
    """OpenAI's `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, for the limits that there are."""
    headers: Headers = []
    for name, limit in (("requests", limits.requests), ("tokens", limits.tokens)):
        if limit.limit is not None:
            headers += [
                (f"x-ratelimit-limit-{name}".encode(), str(limit.limit).encode()),
                (f"x-ratelimit-remaining-{name}".encode(), str(limit.remaining).encode()),
                (f"x-ratelimit-reset-{name}".encode(), duration(limit.reset_s).encode()),
            ]
    return headers


def grant_headers(grant: Grant) -> Headers:
    """Which class was served, how long the request waited, and what had been predicted."""
    headers = [
        (b"x-service-class", grant.class_name.encode()),
        (b"x-queue-wait-ms", f"{grant.queue_wait_s * 1000:.0f}".encode()),
    ]
    if grant.predicted_ttft_s is not None:
        headers.append((b"x-predicted-ttft-ms", f"{grant.predicted_ttft_s * 1000:.0f}".encode()))
    return headers if grant.rate_limits is None else headers + rate_limit_headers(grant.rate_limits)


def duration(seconds: float) -> str:
    """As OpenAI writes it: 80ms, 7.66s, 6m0s."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest_s = divmod(round(seconds), 60)
    return f"{minutes}m{rest_s}s"
