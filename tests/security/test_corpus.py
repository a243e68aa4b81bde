"""Every hostile request against the HTTP face: what must be refused there is, and tells nothing more."""

from __future__ import annotations

import re

import pytest
import pytest_asyncio

from tests.security.corpus import CORPUS, GOOD, Hostile
from tests.security.site import Site

COMPLETIONS = "/v1/completions"
# Our own source, an interpreter, a trace: nothing of it is a client's business.
TOLD = re.compile(rb"site-packages|Traceback|File \\?\"|/(?:usr|home|root|opt|tmp|var)/|\.py\b|0x[0-9a-f]{9}")


# One site for all: what one request leaves behind, the next one meets.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site():
    async with Site.started() as site:
        yield site


async def test_the_corpus_is_large_and_each_request_is_another():
    assert len({(one.method, one.path, one.body, str(one.headers)) for one in CORPUS}) >= 300
    assert len({one.name for one in CORPUS}) == len(CORPUS)


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: hostile.name)
async def test_a_hostile_request_is_refused_or_does_no_harm(site: Site, hostile: Hostile):
    tickets = list(site.control.tickets)
    answer = await site.send(hostile)
    if hostile.gateway:
        assert 400 <= answer.status < 500, answer.body
        assert site.control.tickets == tickets
    else:
        assert answer.status == 200 or 400 <= answer.status < 500, answer.body
    if answer.status >= 400:
        error = answer.error
        assert error.keys() == {"message", "type", "param", "code"}
        assert len(answer.body) < 1000
        assert not TOLD.search(answer.body.replace(hostile.body, b""))
    assert (await site.ask("POST", COMPLETIONS, GOOD)).status == 200
