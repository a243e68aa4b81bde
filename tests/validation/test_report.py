"""The same verdicts for people, for machines and as a page."""

from __future__ import annotations

import html.parser
import io
import json
from dataclasses import replace

from rich.console import Console

from app.validation.measured import Measurements, NotMeasured
from app.validation.page import report_page
from app.validation.report import Report, measured_text, promised_text, report_json, report_table
from app.validation.verdicts import judge
from tests.validation.test_verdicts import GOOD, KV_TOKENS, PROMISES

NOTHING = Measurements(*[NotMeasured("<no> server")] * 5, requests=0, failures={})


def report(measured: Measurements) -> Report:
    verdicts = tuple(judge(PROMISES, KV_TOKENS, measured))
    return Report("llm", "tiny <model>", "http://here", "today", 12.3, verdicts, measured)


class Page(html.parser.HTMLParser):
    """Checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not [value for name, value in attributes if name in ("src", "href")], "nothing from elsewhere"
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_has_a_picture_of_each_measurement():
    text = report_page(report(GOOD))
    page = Page(text)
    assert page.seen.count("svg") == 5
    assert page.seen.count("tr") == 12
    assert "All measured promises are kept" in text
    assert "11 pass, 0 fail, 0 not measurable here" in text


def test_the_page_of_nothing_measured_has_reasons_and_no_picture():
    text = report_page(report(NOTHING))
    page = Page(text)
    assert "svg" not in page.seen
    assert "&lt;no&gt; server" in text
    assert "tiny &lt;model&gt;" in text
    assert "0 pass, 0 fail, 11 not measurable here" in text


def test_a_broken_promise_is_told_everywhere():
    broken = report(replace(GOOD, failures={"latency failed 500": 3}))
    assert "A promise is broken" in report_page(broken)
    document = json.loads(report_json(broken))
    assert (document["kept"], document["summary"]) == (False, "10 pass, 1 fail, 0 not measurable here")
    assert document["measurements"]["failures"] == {"latency failed 500": 3}
    console = Console(file=io.StringIO(), width=160)
    console.print(report_table(broken))
    printed = console.file.getvalue()
    assert "3 of 30 requests: 3 x latency failed 500" in printed
    assert printed.count("pass") == 10


def test_figures_have_units_and_a_sense():
    verdicts = {one.promise: one for one in report(GOOD).verdicts}
    assert promised_text(verdicts["ttft_p99_ms"]) == "≤ 1,000 ms"
    assert promised_text(verdicts["kv_tokens"]) == "≥ 1,000 tokens"
    assert measured_text(verdicts["tpot_p50_ms"]) == "20 ms"
    assert measured_text(report(NOTHING).verdicts[0]) == "-"
