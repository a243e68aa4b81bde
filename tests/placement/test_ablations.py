"""Ours with one mechanism off."""

from __future__ import annotations

from dataclasses import fields

import pytest
from pydantic import TypeAdapter

from app.flow.config import FlowConfig
from placement.simulation.ablations import ABLATIONS, without


@pytest.mark.parametrize("name", ABLATIONS)
def test_it_changes_its_sections_and_no_other(name: str):
    before = FlowConfig()
    after = without(before, name)
    changed = {one.name for one in fields(before) if getattr(after, one.name) != getattr(before, one.name)}
    assert changed == set(ABLATIONS[name])


def test_a_field_of_the_classes_is_every_classs():
    classes = without(FlowConfig(), "no-reserve").classes
    assert [one.reserve_roots for one in classes] == [0.0, 0.0, 0.0]
    assert [one.name for one in classes] == [one.name for one in FlowConfig().classes]


def test_what_does_not_exist_can_not_be_off():
    with pytest.raises(KeyError):
        without(FlowConfig(), "no-luck")


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_application_can_be_configured_so(name: str):
    off = dict(ABLATIONS[name])
    stated = {"boost_s": 0.0, "min_share": 0.0, "ttft_budget_s": 1.0, **off.pop("classes", {})}
    assert TypeAdapter(FlowConfig).validate_python({**off, "classes": [{"name": "standard", **stated}]})
