"""/openapi.json: what is served, from the models and the limits that requests are checked with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from app import sse
from app.gateway.bounds import COUNTS, LABELS, NUMBERS
from app.gateway.requests import Window
from app.gateway.schemas import SCHEMAS, Fields
from app.limits import RequestLimits

_REF = "#/components/schemas/"
_KEYED: dict[str, Any] = {"security": [{"key": []}]}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
                "predicted_wait_s": {"type": "number"},
            },
        }
    },
}
# What a client may be answered instead; which code means what is in docs/api.md.
_REFUSALS = ("400", "401", "403", "404", "405", "408", "413", "415", "429", "431", "500", "503")
# Fields that may hold token ids.
_PROMPTS = {"prompt", "input"}
# What a client reads of each event; only responses name theirs.
_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
}
_STREAMED = {"/v1/chat/completions", "/v1/completions", "/v1/responses"}
# What is read and is no JSON.
_TEXTS = {"/metrics": "text/plain", "/status": "text/html", "/status/events": sse.CONTENT_TYPE}


def document(window: Window, reads: Iterable[str], keyed_reads: Iterable[str]) -> dict[str, Any]:
    """OpenAPI 3.1 of the gateway that serves `window`, and that answers GET at `reads` and `keyed_reads`."""
    models = [(model, "validation") for model in SCHEMAS.values()]
    _, made = models_json_schema(models, ref_template=_REF + "{model}")  # type: ignore[arg-type]
    schemas: dict[str, Any] = made["$defs"]
    for model in SCHEMAS.values():
        _bound(schemas[model.__name__], window)
    paths = {path: {"post": _operation(path, model)} for path, model in SCHEMAS.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "promiseserve", "version": "1", "description": _described(window.limits)},
        "paths": paths
        | {path: {"get": _read(path)} for path in reads}
        | {path: {"get": _read(path) | _KEYED} for path in sorted(keyed_reads)},
        "components": {
            "schemas": schemas | {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(limits: RequestLimits) -> str:
    refused = ", ".join(name for name, _ in limits.forbidden())
    return f"OpenAI's API on vLLM. Fields that are not listed are the engine's; refused are {refused}."


def _bound(schema: dict[str, Any], window: Window) -> None:
    """Writes the configured limits and names into the properties."""
    properties, limits = schema["properties"], window.limits
    properties["model"]["enum"] = [window.model]
    _kind(properties["service_tier"], "string")["enum"] = window.tiers.names
    for name, limit in COUNTS.items():
        if name in properties:
            for kind, bound in (("array", "maxItems"), ("object", "maxProperties")):
                _kind(properties[name], kind)[bound] = getattr(limits, limit)
    for name, limit in NUMBERS.items():
        if name in properties:
            bound = getattr(limits, limit)
            _kind(properties[name], "integer")["maximum"] = window.max_model_len if bound is None else bound
    for name in LABELS:
        _kind(properties[name], "string")["maxLength"] = limits.max_label_chars
    words = {"minLength": 1, "maxLength": limits.max_stop_chars}
    if "stop" in properties:
        _kind(properties["stop"], "string").update(words)
        strings = _kind(properties["stop"], "array")
        strings["maxItems"] = limits.max_stop_strings
        strings["items"].update(words)
    if "bad_words" in properties:
        _kind(properties["bad_words"], "array")["items"].update(words)
    if "n" in properties:
        _kind(properties["n"], "integer")["maximum"] = limits.max_choices
    if window.counter is not None:
        for name in _PROMPTS & properties.keys():
            _bound_tokens(properties[name], window.counter.vocabulary - 1)


def _bound_tokens(schema: dict[str, Any], greatest: int) -> None:
    """The integers of a prompt, however deep, are token ids."""
    if schema.get("type") == "integer":
        schema["maximum"] = greatest
    inner = [schema["items"]] if "items" in schema else schema.get("anyOf", [])
    for one in inner:
        _bound_tokens(one, greatest)


def _kind(property_: dict[str, Any], kind: str) -> dict[str, Any]:
    """The branch of that type; a branch that is thrown away where there is none."""
    branches = property_.get("anyOf", [property_])
    return next((branch for branch in branches if branch.get("type") == kind), {})


def _operation(path: str, model: type[Fields]) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if path in _STREAMED:
        content[sse.CONTENT_TYPE] = {"schema": _EVENT}
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": _REF + model.__name__}}}}
    return {
        "operationId": path.strip("/").replace("/", "_"),
        **_KEYED,
        "requestBody": body,
        "responses": {"200": {"description": "The engine's answer", "content": content}, **_refusals()},
    }


def _refusals() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _REF + "Error"}}}
    return {status: {"description": "No answer", "content": content} for status in _REFUSALS}


def _read(path: str) -> dict[str, Any]:
    text = _TEXTS.get(path)
    content = {text or "application/json": {"schema": {"type": "string" if text else "object"}}}
    return {"responses": {"200": {"description": "What is asked for", "content": content}, **_refusals()}}
