"""Ours with one mechanism off at a time: what a configuration's section `flow` says then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.flow.config import FlowConfig

# Of a promise: more than the prompts of an engine ever take.
NO_PREFILL_SHARE = 1e6
# No overload goes on for so long.
NO_END_S = 1e9

# Fields of its sections; those of `classes` are every class's.
ABLATIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "no-admission": {"admission": {"enabled": False}},
    "no-promises": {"admission": {"promises": False}},
    # All classes keep their budgets but none has a head start.
    "no-boost": {"classes": {"boost_s": 0.0}},
    "no-min-share": {"classes": {"min_share": 0.0}},
    "no-reserve": {"classes": {"reserve_roots": 0.0}},
    "no-impatience": {"admission": {"impatient": False}},
    "no-end": {"admission": {"overload_s": NO_END_S}},
    "no-yield": {"admission": {"yield_share": 0.0}},
    "no-thrift": {"admission": {"thrift_roots": 0.0}},
    "no-burst": {"admission": {"burst_s": 0.0}},
    "no-steps": {"route": {"follow_steps": False}},
    "no-fairness": {"fairness": {"enabled": False}},
    "no-adaptive-limit": {"limit": {"enabled": False}},
    "no-preemption": {"preempt": {"enabled": False}},
    "no-prefill-room": {"route": {"prefill_share": NO_PREFILL_SHARE}},
    "no-affinity": {"route": {"affinity": False}},
}


def without(config: FlowConfig, ablation: str) -> FlowConfig:
    """Raises KeyError for an ablation that does not exist."""
    changed = dict(ABLATIONS[ablation])
    of_classes = changed.pop("classes", {})
    sections = {name: replace(getattr(config, name), **fields) for name, fields in changed.items()}
    return replace(config, classes=tuple(replace(one, **of_classes) for one in config.classes), **sections)
