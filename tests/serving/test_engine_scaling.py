"""From what the core sees and the cluster holds to a target, and what the log says of it."""

from __future__ import annotations

import logging
from dataclasses import replace

from app.config import ApplicationConfig
from app.flow.autoscale import Reason
from app.serving.engine_scaling import LOG_INTERVAL_S, EngineScaling
from placement.room import Room
from tests.loads import IDLE

# Three engines' worth.
BUSY = replace(IDLE, in_flight=10, offered_per_s=3.0)


def scaling(unplaced: int = 0, **replicas: object) -> EngineScaling:
    config = {
        "model": {"name": "tiny", "source": "somebody/tiny"},
        "open_without_keys": True,
        "engine": {"device": "cpu", "max_model_len": 64},
        "replicas": {"max": 8, **replicas},
    }
    return EngineScaling(ApplicationConfig.model_validate(config), lambda: None, lambda: unplaced)


def test_no_more_are_asked_for_than_there_is_room_and_the_log_says_what_is_missing(caplog):
    one = scaling()
    one._room = Room(0, "GPU: 8 on one node, 5 free")
    with caplog.at_level(logging.INFO, "ray.serve"):
        one._decide(BUSY, 0.0, 0.0)
    assert (one.decision.target, one.decision.reason) == (1, Reason.UNPLACEABLE)
    assert "Engines: 1, unplaceable (GPU: 8 on one node, 5 free missing); wanted 4" in caplog.text
    assert "offered_per_s=3.0" in caplog.text


def test_an_engine_that_is_expected_and_holds_nothing_takes_no_room_yet():
    """The one that somebody has woken."""
    one = scaling(unplaced=1, min=0)
    one._room = Room(0, "GPU: 8 on one node, 5 free")
    # For so long nobody has asked, and no engine was taken over.
    for at_s in (0.0, 1000.0):
        one._decide(replace(IDLE, running=0), at_s, at_s)
    assert one.decision.target == 0
    one._decide(replace(IDLE, queued=1, running=0, starting=1, arrived=1), 1001.0, 1001.0)
    assert (one.decision.reason, one.decision.missing) == (Reason.UNPLACEABLE, "GPU: 8 on one node, 5 free")


def test_where_there_is_room_they_come():
    one = scaling()
    one._room = Room(8)
    one._decide(BUSY, 0.0, 0.0)
    assert one.decision.target == 2


def test_a_lean_application_has_nothing_in_reserve():
    load = replace(BUSY, running=3)
    usual, lean = scaling(min=3), scaling(min=3, headroom="lean")
    for second in range(100):
        usual._decide(load, float(second), float(second))
        lean._decide(load, float(second), float(second))
    assert (usual.decision.target, lean.decision.target) == (4, 3)


def test_as_long_as_the_cluster_is_not_known_nothing_is_held_back():
    one = scaling()
    one._decide(BUSY, 0.0, 0.0)
    assert one.decision.target == 2


def test_an_unchanged_target_is_logged_now_and_then(caplog):
    one = scaling(max=1)
    quiet = replace(BUSY, offered_per_s=0.1)
    with caplog.at_level(logging.INFO, "ray.serve"):
        for second in range(round(2.5 * LOG_INTERVAL_S)):
            one._decide(quiet, 1000.0 + second, 1000.0 + second)
    assert len(caplog.records) == 3


def test_without_figures_the_log_says_so(caplog):
    one = scaling()
    with caplog.at_level(logging.INFO, "ray.serve"):
        one._decide(None, 0.0, 0.0)
    assert "nothing is known" in caplog.text


def test_a_person_is_told_of_what_moves_the_target_and_of_what_is_missing():
    one = scaling()
    one._decide(None, 0.0, 0.0)
    assert one.log.decisions() == ()
    one._room = Room(0, "GPU: 8 on one node, 5 free")
    one._decide(BUSY, 7.0, 100.0)
    one._decide(BUSY, 7.5, 100.5)
    one._room = Room(8)
    one._decide(BUSY, 107.0, 200.0)
    assert [(told.at_s, told.engines, told.reason) for told in one.log.decisions()] == [
        (200.0, 2, Reason.STEP_LIMIT.value),
        (100.0, 1, "unplaceable (GPU: 8 on one node, 5 free missing)"),
    ]
