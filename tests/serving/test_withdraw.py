"""Taking applications away: all of them at once, and until they are gone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.serving import withdraw


def test_all_drain_at_the_same_time_and_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    # What Serve still has, look by look.
    left = [{"a", "b", "other"}, {"b", "other"}, {"other"}]

    def delete(name: str, _blocking: bool = True) -> None:
        assert not _blocking
        events.append(f"delete {name}")

    def status() -> SimpleNamespace:
        events.append("look")
        return SimpleNamespace(applications=dict.fromkeys(left.pop(0)))

    monkeypatch.setattr(withdraw.ray, "init", lambda **_: None)
    monkeypatch.setattr(withdraw, "serve", SimpleNamespace(delete=delete, status=status))
    monkeypatch.setattr(withdraw, "POLL_INTERVAL_S", 0.0)
    withdraw.withdraw(["a", "b"])
    assert events == ["delete a", "delete b", "look", "look", "look"]
