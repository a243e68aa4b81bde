"""The configuration's reference is the model's, and leaves nothing out."""

from __future__ import annotations

from dataclasses import fields

from app.config import ApplicationConfig
from app.flow.config import FlowConfig
from app.reference import REQUIRED, reference, sections
from tests.documented import REPOSITORY


def test_the_page_is_current():
    page = (REPOSITORY / "docs/configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m app config-reference > docs/configuration.md"


def by_path():
    return {section.path: section for section in sections(ApplicationConfig, "", {})}


def test_every_section_and_field_is_there():
    found = by_path()
    plain = {
        "api_keys",
        "api_keys_file",
        "api_keys_env",
        "open_without_keys",
        "hardware",
        "control_resources",
    }
    assert set(ApplicationConfig.model_fields) - plain <= set(found)
    for path, kind in (("flow", FlowConfig), ("flow.limit", type(FlowConfig().limit))):
        assert [entry.name for entry in found[path].entries] == [field.name for field in fields(kind)]


def test_an_entry_says_type_default_bounds_and_reason():
    engine = {entry.name: entry for entry in by_path()["engine"].entries}
    assert (engine["max_model_len"].type, engine["max_model_len"].default) == ("integer", REQUIRED)
    assert engine["max_model_len"].text == "Prompt plus output, tokens. (≥ 16)"
    assert engine["gpu_memory_utilization"].default == "`0.85`"
    assert engine["gpu_memory_utilization"].text.startswith("The promise is at most 85 %")
    assert engine["quantization"].default == ""
    assert engine["device"].type == "`cpu` or `gpu`"


def test_a_class_that_is_used_twice_has_one_table():
    found = by_path()
    assert found["flow.tenants.<name>"].entries == ()
    assert found["flow.tenants.<name>"].text == "As `flow.tenant`."
