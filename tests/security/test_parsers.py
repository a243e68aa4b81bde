"""Whatever bytes come: a parser refuses them by field, or reads what the engine will read."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from urllib.parse import urlsplit

from hypothesis import given, settings
from hypothesis import strategies as st

from app import sse
from app.gateway.door import announced_bytes
from app.gateway.engine_errors import from_engine
from app.gateway.errors import ApiError
from app.gateway.grammars import check_grammars
from app.gateway.key_sources import KeySourceError, parse_entries
from app.gateway.media import check_media
from app.gateway.redaction import without_paths
from app.gateway.requests import parse
from app.gateway.schemas import SALTED_PATHS, SCHEMAS
from app.gateway.tenants import bearer
from app.limits import FORBIDDEN_FIELDS, RequestLimits
from tests.security.corpus import base
from tests.security.site import window

WINDOW = window()
PATHS = st.sampled_from(sorted(SCHEMAS))
FIELDS = st.sampled_from(
    sorted({*FORBIDDEN_FIELDS, *(name for model in SCHEMAS.values() for name in model.model_fields)})
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
MANY = settings(max_examples=100, deadline=None)


def outcome(path: str, body: bytes) -> ApiError | bytes:
    """A refusal with a field, or the body that the engine gets."""
    try:
        return parse(path, body, WINDOW, "blue").body
    except ApiError as error:
        refused = error
    assert refused.status in (400, 404, 413)
    assert refused.param
    assert len(refused.message) < 600
    json.loads(refused.body())
    return refused


def refusal(check: Callable[..., object], *arguments: object) -> Exception | None:
    """What it raises of the errors that it may raise."""
    try:
        check(*arguments)
    except (ApiError, KeySourceError) as error:
        return error
    return None


@MANY
@given(PATHS, st.binary(max_size=400))
def test_any_bytes_are_refused_by_field(path, body):
    assert isinstance(outcome(path, body), ApiError)


@MANY
@given(PATHS, st.dictionaries(FIELDS, VALUES, max_size=5))
def test_any_fields_are_refused_by_name_or_reach_the_engine_unchanged_but_for_nulls_and_the_salt(
    path, fields
):
    body = json.dumps({**base(path), **fields})
    result = outcome(path, body.encode())
    if isinstance(result, bytes):
        sent, given_ = json.loads(result), json.loads(body)
        salt = sent.pop("cache_salt", None)
        given_.pop("cache_salt", None)
        assert sent == {name: value for name, value in given_.items() if value is not None}
        if path in SALTED_PATHS:
            assert re.fullmatch("[0-9a-f]{32}", salt)


@MANY
@given(st.text(alphabet=string.whitespace, max_size=5), st.text(max_size=30), st.text(max_size=30))
def test_no_client_chooses_the_salt(space, own, prompt):
    """Twice the same key, and space around: the last one counts, and it is ours."""
    head = json.dumps({**base("/v1/completions"), "prompt": prompt or "a", "cache_salt": own or "x"})
    body = f'{space}{head[:-1]},"cache_salt":"again"{space}}}{space}'.encode()
    result = outcome("/v1/completions", body)
    if isinstance(result, bytes):
        assert json.loads(result)["cache_salt"] not in (own, "again")


@MANY
@given(st.text(max_size=100))
def test_a_url_that_passes_has_the_host_that_was_allowed(text):
    limits = RequestLimits(media_hosts=("media.example",))
    for url in (text, f"https://media.example{text}", f"https://{text}media.example/"):
        message = {"content": [{"type": "image_url", "image_url": {"url": url}}]}
        if refusal(check_media, {"messages": [message]}, limits):
            continue
        assert url.startswith("data:") or urlsplit(url).hostname == "media.example"
        assert "@" not in urlsplit(url).netloc
        assert "\\" not in url


@MANY
@given(st.text(alphabet="ab{}[]().*+?,0123456789\\|", max_size=200))
def test_any_pattern_is_bounded(pattern):
    limits = RequestLimits(max_regex_operators=4, max_repetitions=100)
    refused = refusal(check_grammars, {"structured_outputs": {"regex": pattern}}, limits, True)
    if refused is not None:
        assert refused.param == "structured_outputs.regex"
    else:
        assert sum(pattern.count(operator) for operator in "*+?{") <= 4
        assert all(int(number) <= 100 for number in re.findall(r"\{(\d+)\}", pattern))


@MANY
@given(VALUES)
def test_any_schema_is_refused_or_small(schema):
    limits = RequestLimits(max_schema_bytes=200, max_schema_depth=3)
    for value in (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
        {"structured_outputs": {"json": schema, "structural_tag": schema, "choice": schema}},
        {"tools": schema if isinstance(schema, list) else [schema], "text": {"format": schema}},
        {"tools": [{"function": schema}, {"parameters": schema}], "tool_choice": schema},
    ):
        refused = refusal(check_grammars, value, limits, True)
        assert refused is None or refused.code == "invalid_value"


@MANY
@given(
    st.integers(400, 499),
    st.binary(max_size=300)
    | VALUES.map(lambda value: json.dumps({"error": value}).encode())
    | VALUES.map(lambda value: json.dumps({"error": {"message": value, "param": value}}).encode()),
    PATHS,
)
def test_whatever_an_engine_refuses_with_becomes_a_refusal(status, body, path):
    json.loads(from_engine(status, body, path).body())


@MANY
@given(st.text(max_size=100))
def test_any_authorization_is_a_key_or_none(text):
    key = bearer(text)
    assert key is None or key in text


@MANY
@given(st.binary(max_size=30))
def test_any_length_is_a_number(value):
    assert announced_bytes({"headers": [(b"content-length", value)]}) >= 0


@MANY
@given(st.lists(st.text(max_size=100), max_size=5))
def test_any_entries_are_keys_by_tenant_or_refused_unseen(entries):
    refused = refusal(parse_entries, "file", entries)
    if refused is not None:
        assert str(refused).startswith("file: ")
    else:
        found = parse_entries("file", entries)
        assert all(tenant and all(len(hash_) == 64 for hash_ in hashes) for tenant, hashes in found.items())


@MANY
@given(st.lists(st.binary(max_size=40), max_size=8))
async def test_any_chunks_are_events(chunks):
    async def source():
        for chunk in chunks:
            yield chunk

    assert all(b"\n" not in event for event in [event async for event in sse.data_of(source())])


@MANY
@given(st.text(max_size=200))
def test_no_message_keeps_a_path(text):
    for message in (
        text,
        f"{text} /usr/lib/python3.11/site-packages/vllm/x.py",
        f"in '/home/me/model' {text}",
    ):
        assert "/usr/lib" not in without_paths(message)
        assert "/home/me" not in without_paths(message)
