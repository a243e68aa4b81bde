"""What a message may point at: nothing but data in the request, and hosts that the configuration names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.gateway.errors import ApiError, invalid
from app.limits import RequestLimits

# Parts of a message that name media, as OpenAI and vLLM 0.29 call them. All but text has one of them.
_URL_KEYS = frozenset({"image_url", "video_url", "audio_url", "file_url", "file_data"})
# Where a message, or an item of a response's input, has its parts.
PART_LISTS = ("content", "output")
# Serialised tensors, objects of the server's memory, and files that a server would have to keep.
_FORBIDDEN_KEYS = frozenset(
    {"image_embeds", "audio_embeds", "video_embeds", "image_pil", "file_id", "container_id", "server_url"}
)
# A host alone between scheme and path: nothing that two parsers could read differently.
_REMOTE = re.compile(r"https?://([a-z0-9.-]+)(?::\d{1,5})?(?:/[!-\[\]-~]*)?", re.ASCII)
_DATA = re.compile(r"data:[a-z]+/[a-z0-9.+-]+(?:;[a-z0-9=.+-]+)*;base64,", re.ASCII)


def check_media(value: Mapping[str, Any], limits: RequestLimits) -> None:
    """Raises ApiError 400 for an address that the engine may not open, and for a name in its cache."""
    for field in ("messages", "input", "prompt"):
        _check_names(field, value.get(field))
        for key, target in _pointers(value.get(field)):
            if key in _FORBIDDEN_KEYS:
                reason = f"{field}: {key} is not allowed here"
                raise ApiError(400, "forbidden_field", reason, field)
            for url in _urls(target):
                _check_url(field, url, limits)


def _check_names(field: str, messages: object) -> None:
    """By its `uuid` vLLM finds what it has made of a medium before, whichever tenant sent it."""
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        for name in PART_LISTS:
            parts = message.get(name)
            for place, part in enumerate(parts if isinstance(parts, list) else ()):
                if isinstance(part, dict) and part.get("uuid") is not None:
                    param = f"{field}.{number}.{name}.{place}.uuid"
                    reason = "is not supported: media are not named, for a name may be another tenant's"
                    raise invalid(param, part["uuid"], reason, "unsupported_field")


def _pointers(content: object) -> Iterator[tuple[str, object]]:
    """Each media key in it, and what it holds."""
    open_: list[object] = [content] if isinstance(content, dict | list) else []
    while open_:
        one = open_.pop()
        if isinstance(one, dict):
            for key, inner in one.items():
                if (key in _URL_KEYS or key in _FORBIDDEN_KEYS) and inner is not None:
                    yield key, inner
                if isinstance(inner, dict | list):
                    open_.append(inner)
        elif isinstance(one, list):
            open_.extend(inner for inner in one if isinstance(inner, dict | list))


def _urls(target: object) -> Iterator[str]:
    if isinstance(target, str):
        yield target
    elif isinstance(target, dict) and isinstance(target.get("url"), str):
        yield target["url"]


def _check_url(field: str, url: str, limits: RequestLimits) -> None:
    if _DATA.match(url):
        return
    remote = _REMOTE.fullmatch(url)
    if remote is None or remote.group(1) not in limits.media_hosts:
        reason = "is an address that the server does not open; send the data itself (data:...;base64,...)"
        raise invalid(field, url, reason, "forbidden_url")
