"""The page as a function of its value."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from app.status.history import Sample
from app.status.page import bar, main_html, page_html, spark
from app.status.view import MAX_TENANTS, StatusView, from_json, to_json
from tests.status.views import IDLE, busy, engine

MAX_PAGE_BYTES = 100_000


def page(view: StatusView) -> str:
    return page_html(view, main_html(view))


class Cells(HTMLParser):
    """The rows of all tables, as texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.feed(text.replace("\u202f", " "))
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        self._in_cell = self._in_cell or tag in ("td", "th")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.rows[-1][-1] += data


def rows(view: StatusView) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in Cells(main_html(view)).rows if row}


def test_a_class_shows_who_waits_and_how_much_of_the_budget_is_gone():
    found = Cells(main_html(busy())).rows
    assert ["standard", "41", "60,102", "8.9 s", "89 %", "about 9.4 s", "10 s"] in found
    assert ["interactive", "3", "2,210", "380 ms", "19 %", "not at all", "2 s"] in found


def test_a_tenant_shows_its_requests_by_class():
    assert rows(busy())["search"] == ["60", "3", "11", "40", "59 s", "2"]
    assert "And 9 more with less." in main_html(busy())


def test_a_missed_objective_is_said_in_words():
    found = Cells(main_html(busy())).rows
    assert ["interactive", "first token in time", "99.4 %", "99.8 %", "99.0 %", "42 %", "85 %"] in found
    assert ["standard", "answered", "86.8 % missed", "–", "99.0 %", "overdrawn", "–"] in found


def test_each_rank_stands_at_its_stage_and_tensor_rank():
    table = rows(busy(engines=1))
    assert [cell.split(" Memory")[0] for cell in table["PP 2 layers 40–59"]] == ["Rank 4", "Rank 5"]
    assert table["PP 1 layers 20–39"][1] == "Rank 3 Memory 64 GiB Load 97 %"


def test_a_scale_decision_comes_with_its_reason():
    found = Cells(main_html(busy())).rows
    assert ["14:11:20", "3", "queue"] in found
    assert ["11:43:20", "2", "kv cache"] in found


def test_what_is_not_measured_is_not_shown():
    view = replace(busy(engines=1), ranks=(), attainment=(), history=(), scaling=())
    text = main_html(view)
    assert rows(view)["PP 2 layers 40–59"] == ["Rank 4", "Rank 5"]
    for absent in ("Memory", "Load", "Promises kept", "last 5 minutes", "Scale decisions"):
        assert absent not in text


def test_a_layer_range_that_is_not_known_is_left_out():
    view = replace(IDLE, detail=replace(IDLE.detail, replicas=(engine(0),)))
    assert "PP 0" in rows(view)


def test_without_an_engine_it_says_so():
    text = main_html(IDLE)
    assert "No engine" in text
    assert "None has reported." in text
    assert "None starting" in text
    starting = replace(IDLE, detail=replace(IDLE.detail, starting_s=(34.0,)))
    assert "1 starting, next in 34\u202fs" in main_html(starting)


def test_an_engine_that_is_silent_or_can_not_be_asked_shows_it():
    silent = replace(engine(0, "silent"), metrics=None)
    text = main_html(replace(IDLE, detail=replace(IDLE.detail, replicas=(silent,))))
    assert "no report for 7.2\u202fs" in text
    assert "does not answer" in text


@pytest.mark.parametrize("part", ["model", "tenant", "class", "device", "outcome", "promise", "replica"])
def test_every_text_is_escaped(part):
    bad = "<img src=x onerror=alert(1)>\"'&"
    view = busy(engines=1)
    detail = view.detail
    changed = {
        "model": {"model": bad},
        "tenant": {"detail": replace(detail, tenants=(replace(detail.tenants[0], name=bad),))},
        "class": {"detail": replace(detail, classes=(replace(detail.classes[0], name=bad),))},
        "replica": {"detail": replace(detail, replicas=(replace(detail.replicas[0], replica_id=bad),))},
        "device": {"ranks": (replace(view.ranks[0], device=bad),)},
        "outcome": {"ended": ((bad, 1),)},
        "promise": {"attainment": (replace(view.attainment[0], promise=bad),)},
    }[part]
    text = page(replace(view, **changed))
    assert "<img" not in text
    assert "&lt;img" in text


def test_the_largest_page_stays_below_its_bound():
    view = busy(engines=40, tenants=MAX_TENANTS)
    long = tuple(replace(one, name=f"{n}" * 400) for n, one in enumerate(view.detail.tenants))
    text = page(replace(view, detail=replace(view.detail, tenants=long)))
    assert len(text.encode()) < MAX_PAGE_BYTES
    assert text.count("<article") == 12
    assert "And 28 more." in text


def test_nothing_comes_from_elsewhere_and_nothing_is_styled_in_place():
    text = page(busy())
    assert not re.findall(r"(?:src|href)=", text)
    assert " style=" not in text


def test_bars_stay_within_their_track_and_warn_only_where_much_is_too_much():
    assert 'width="100.0"' in bar(1.7)
    assert 'width="0.0"' in bar(-1.0)
    assert 'class="normal"' in bar(0.97)
    assert 'class="full"' in bar(0.97, warns=True)
    assert 'class="high"' in bar(0.9, warns=True)


def test_the_line_ends_at_the_right_and_leaves_out_what_is_older():
    line = spark([Sample(0.0, 9, 0), Sample(1000.0, 0, 0), Sample(1150.0, 4, 0), Sample(1300.0, 2, 0)])
    assert 'polyline points="0.0,39.0 150.0,22.1 300.0,30.6"' in line


def test_the_value_survives_json():
    assert from_json(to_json(busy())) == busy()
    with pytest.raises(ValueError, match="model"):
        from_json(b"{}")
