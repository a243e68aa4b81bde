"""SIGTERM to what scripts/serve runs, under load: its own Ray, its own HAProxy, its own order of ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.chaos.cell import every_ask
from benchmarks.chaos.client import learn
from benchmarks.chaos.command import MODEL, SECTIONS, application_at
from benchmarks.chaos.ending import end_under_load
from benchmarks.chaos.parts import tree
from benchmarks.configs import changed
from benchmarks.servers import ours
from tests.documented import REPOSITORY

pytestmark = [pytest.mark.engine, pytest.mark.long]


def test_what_runs_is_answered_what_waits_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Else it would join the cluster of the other tests.
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = changed(REPOSITORY / "serve_configs/smollm2-cpu.yaml", tmp_path, "terminated", SECTIONS)
    with ours(config) as server:
        application = application_at(server, tree(server.pid))
        known = asyncio.run(learn(application.url, MODEL, every_ask(application.places)))
        account = asyncio.run(end_under_load(application, known, server.pid))
    print(account)
    assert account.clean, account
    assert account.settled_s is not None
    # All that ran; what waited has an error of its own, if no place came free before.
    assert account.survived >= application.places, account
    assert account.fates.keys() <= {"completed", "error"}, account
