"""The gateway's replica: what it makes of its configuration where it runs."""

from __future__ import annotations

from pathlib import Path

from app.serving import gateway


def test_without_the_models_folder_prompts_are_not_counted(tmp_path: Path) -> None:
    """The engines' nodes have it; a gateway's node need not."""
    assert gateway._token_counter(str(tmp_path / "models" / "llama")) is None
