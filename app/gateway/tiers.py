"""OpenAI's `service_tier` and this application's classes."""

from __future__ import annotations

import json
from typing import Any

from app import sse
from app.flow.config import FlowConfig

# How vLLM writes the field in a whole answer, and how each of its answers and events begins.
_FIELD = b'"service_tier":'
_EMPTY = _FIELD + b"null"
_FIRST = b'{"id":'
_DATA = b"\n" + sse.DATA


class Tiers:
    """Which class a tier asks for, and how the class that is served is called to that client.

    A tier is the name of a class, or one of OpenAI's: `priority` is the most urgent class, `flex` the least,
    `auto`, `default` and `scale` the configuration's default. `fast` and `ultrafast` are `priority`, unless a
    class has the name.
    """

    def __init__(self, config: FlowConfig) -> None:
        names = [policy.name for policy in config.classes]
        default = config.default_class
        self._openai = {"auto": default, "default": default, "scale": default}
        self._openai |= {"priority": names[0], "flex": names[-1]}
        self._openai |= {tier: names[0] for tier in ("fast", "ultrafast") if tier not in names}
        self._classes = {**{name: name for name in names}, **self._openai}
        # The same the other way round; where classes are few, the default's name wins.
        self._answers = {names[-1]: "flex", names[0]: "priority", default: "default"}

    @property
    def names(self) -> list[str]:
        return list(self._classes)

    def class_of(self, tier: str) -> str | None:
        """None for a tier that does not exist."""
        return self._classes.get(tier)

    def served(self, asked: str | None, class_name: str) -> str:
        """The tier to echo: in OpenAI's words to those who used them or asked for nothing."""
        own_words = asked is not None and asked not in self._openai
        return class_name if own_words else self._answers.get(class_name, class_name)


def with_tier(head: bytes, tier: str) -> bytes:
    """The beginning of an answer of vLLM's (whole, or the first events of a stream) with the tier in it.

    Inside a JSON string the quotes of the pattern would be escaped, so it is only found as a field.
    """
    field = _FIELD + json.dumps(tier).encode()
    if _EMPTY in head:
        return head.replace(_EMPTY, field, 1)
    return head.replace(_FIRST, b"{" + field + b"," + _FIRST[1:], 1)


def response_with_tier(body: bytes, tier: str) -> bytes:
    """A whole answer of /v1/responses. It is read: what it repeats of the client's (`metadata`, `tools`) may
    have a field of that name before its own."""
    return _written({**json.loads(body), "service_tier": tier})


def events_with_tier(events: bytes, tier: str) -> bytes:
    """Whole events of such an answer's stream: the first two and the last hold the response."""
    if _FIELD not in events:
        return events
    return sse.END.join(_event_with_tier(event, tier) for event in events.split(sse.END))


def _event_with_tier(event: bytes, tier: str) -> bytes:
    name, data, payload = event.partition(_DATA)
    value = json.loads(payload) if _FIELD in payload else {}
    response = value.get("response")
    if not isinstance(response, dict):
        return event
    return name + data + _written({**value, "response": {**response, "service_tier": tier}})


def _written(value: dict[str, Any]) -> bytes:
    """As vLLM writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
