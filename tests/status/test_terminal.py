"""The terminal's rendering as a function of its value."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from app.status.terminal import screen
from app.status.view import StatusView
from tests.status.views import IDLE, busy


def printed(view: StatusView, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(screen(view))
    return [" ".join(line.replace("\u202f", " ").split()) for line in console.file.getvalue().splitlines()]


def test_it_shows_what_the_page_shows():
    lines = printed(busy(engines=1))
    text = "\n".join(lines)
    assert "llama-3-70b-instruct 14:13:20 UTC" in lines
    assert "147 of 512 in the queue · 60 of 64 places taken · 1 ready, next in 34 s · empty in 11 s" in lines
    assert "standard 41 60,102 8.9 s ━━━━━━━━━─ 89 % 9.4 s 10 s" in lines
    assert "interactive ttft 99.4 % 99.8 % 99.0 %" in lines
    assert "search 60 3 11 40 59 s" in lines
    assert "14:11:20 3 queue" in lines
    assert "replica0x7k2 ready" in text
    assert "PP1 20–39 63 GiB 70 % 64 GiB 97 %" in text


def test_what_is_not_measured_is_not_shown():
    lines = printed(replace(busy(engines=1), ranks=(), attainment=()))
    assert not any("Promises" in line or "GiB" in line for line in lines)
    assert len(printed(IDLE)) < 10


def test_names_do_not_steer_the_terminal():
    view = busy(engines=1)
    tenant = replace(view.detail.tenants[0], name="\x1b[2J[red]x")
    lines = printed(replace(view, detail=replace(view.detail, tenants=(tenant,))))
    assert any(line.startswith("[2J[red]x") for line in lines)
    assert not any("\x1b" in line for line in lines)
