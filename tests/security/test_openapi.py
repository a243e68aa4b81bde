"""/openapi.json is true: what it allows is accepted, what it doesn't is refused (Schemathesis)."""

from __future__ import annotations

import json

import pytest
import pytest_asyncio
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from app.gateway.openapi import document
from app.gateway.schemas import SCHEMAS
from app.limits import RequestLimits
from tests.security.corpus import MODEL
from tests.security.site import Site, window

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Room for whatever is generated: how long a prompt may be no schema can say.
WINDOW_TOKENS = 1_000_000
# Nor what a schema or a pattern inside may be, what a name of a template may be, or how sizes multiply.
BEYOND_SCHEMAS = {"context_length_exceeded", "forbidden_field", "forbidden_url", "unsupported_field"}
# Nor what two fields say together, or where a text has its lines.
BEYOND = (
    *("answers exceed", "answers would be the same", "that an answer may have", "has several lines"),
    "log probabilities exceed",
)
# The same each time: a rare disagreement of generator and document is no news in somebody else's change.
SOME = settings(max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site():
    async with Site.started(max_model_len=WINDOW_TOKENS) as site:
        yield site


def operations() -> dict[str, schemathesis.APIOperation]:
    """Without its keys: an open site has none."""
    described = document(window(RequestLimits(), WINDOW_TOKENS), (), ())
    for path in SCHEMAS:
        del described["paths"][path]["post"]["security"]
    schema = schemathesis.openapi.from_dict(described)
    return {path: schema[path]["POST"] for path in SCHEMAS}


OPERATIONS = operations()


def encoded(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(whole(body)).encode(errors="surrogatepass")


def whole(value: object) -> object:
    """To JSON 5.0 is an integer; to us, as to vLLM, a number written so is none."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole(inner) for name, inner in value.items()}
    return [whole(inner) for inner in value] if isinstance(value, list) else value


async def test_the_document_is_served_and_valid(site):
    served = json.loads((await site.ask("GET", "/openapi.json")).body)
    open_ = ("/health", "/ready", "/metrics", "/openapi.json")
    keyed = ("/ranks", "/v1/models", f"/v1/models/{MODEL}")
    assert served == document(window(RequestLimits(), WINDOW_TOKENS), open_, keyed)
    schemathesis.openapi.from_dict(served).validate()


@pytest.mark.parametrize("path", SCHEMAS)
@SOME
@given(data=st.data())
async def test_what_the_document_allows_is_accepted(site, path, data):
    case = data.draw(OPERATIONS[path].as_strategy(generation_mode=GenerationMode.POSITIVE))
    answer = await site.ask("POST", path, encoded(case.body))
    if answer.status != 200:
        error = answer.error
        assert error["code"] in BEYOND_SCHEMAS or any(words in error["message"] for words in BEYOND), error


@pytest.mark.parametrize("path", SCHEMAS)
@SOME
@given(data=st.data())
async def test_what_the_document_does_not_allow_is_refused_by_its_field(site, path, data):
    case = data.draw(OPERATIONS[path].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    answer = await site.ask("POST", path, encoded(case.body))
    assert 400 <= answer.status < 500, case.body
    assert answer.error["param"]
