"""Taking applications away: all of them at once, and until they are gone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.serving import withdraw


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Serve is asked; of `a` and `b` one is gone at each look after the first."""
    seen: list[str] = []
    left = [{"a", "b", "other"}, {"a", "b", "other"}, {"b", "other"}, {"other"}]

    def delete(name: str, _blocking: bool = True) -> None:
        assert not _blocking
        seen.append(f"delete {name}")

    def status() -> SimpleNamespace:
        seen.append("look")
        return SimpleNamespace(applications=dict.fromkeys(sorted(left.pop(0))))

    monkeypatch.setattr(withdraw.ray, "init", lambda **_: None)
    monkeypatch.setattr(withdraw, "serve", SimpleNamespace(delete=delete, status=status))
    monkeypatch.setattr(withdraw, "POLL_INTERVAL_S", 0.0)
    return seen


def test_all_drain_at_the_same_time_and_are_waited_for(events: list[str]) -> None:
    assert withdraw.withdraw(["a", "b"]) == 0
    assert events == ["look", "delete a", "delete b", "look", "look", "look"]


def test_a_name_that_is_not_served_is_said_and_the_others_go(
    events: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert withdraw.withdraw(["lm", "a"]) == withdraw.UNKNOWN
    assert capsys.readouterr().err == "NAME: lm: not served; there are: a, b, other\n"
    assert [event for event in events if event != "look"] == ["delete a"]
