"""Links between the pages lead somewhere, and every page is in the reading order."""

from __future__ import annotations

import re

from tests.documented import PAGES, REPOSITORY

_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)#\s]+)(?:#[^)]*)?\)")
_BLOCK = re.compile(r"^(`{3,}).*?^\1", re.MULTILINE | re.DOTALL)


def links(page: str) -> list[str]:
    text = _BLOCK.sub("", (REPOSITORY / page).read_text(encoding="utf-8"))
    targets = [link["target"] for link in _LINK.finditer(text)]
    return [target for target in targets if "://" not in target]


def test_every_link_leads_to_a_file():
    found = [(page, link) for page in PAGES for link in links(page)]
    assert len(found) > 10
    assert [(page, one) for page, one in found if not ((REPOSITORY / page).parent / one).exists()] == []


def test_every_page_of_the_documentation_is_in_the_reading_order():
    named = (REPOSITORY / "docs/README.md").read_text(encoding="utf-8")
    pages = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")} - {"README.md"}
    assert {page for page in pages if page not in named} == set()
