"""How long a prompt can be that a chat template makes of a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.gateway.media import PART_LISTS
from app.gateway.values import written

# What a template is given.
_GIVEN = ("messages", "input", "instructions", "tools", "documents", "chat_template_kwargs")
# A placeholder stands for each in the prompt.
_MEDIA = frozenset({"image_url", "video_url", "audio_url", "input_audio"})


def template_chars(field: str, value: Mapping[str, Any]) -> int:
    """Characters of all that a template may write, as JSON. Raises ApiError 400 for what is no character."""
    given = [_without_media(value[name]) for name in _GIVEN if name in value]
    return sum(len(written(field, one).decode()) for one in given)


def _without_media(messages: object) -> object:
    return [_of_message(one) for one in messages] if isinstance(messages, list) else messages


def _of_message(message: object) -> object:
    if not isinstance(message, dict):
        return message
    return {
        name: [_of_part(part) for part in inner] if name in PART_LISTS and isinstance(inner, list) else inner
        for name, inner in message.items()
    }


def _of_part(part: object) -> object:
    if not isinstance(part, dict):
        return part
    return {name: inner for name, inner in part.items() if name not in _MEDIA}
