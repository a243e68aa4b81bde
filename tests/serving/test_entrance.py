"""A gateway that lets everyone in asks Serve where it listens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.serving import entrance


def listening(monkeypatch: pytest.MonkeyPatch, host: str | None) -> None:
    async def remote() -> SimpleNamespace:
        return SimpleNamespace(host=host)

    controller = SimpleNamespace(get_http_config=SimpleNamespace(remote=remote))
    monkeypatch.setattr(entrance, "_get_global_client", lambda: SimpleNamespace(_controller=controller))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "gateway.example"])
async def test_an_address_that_others_reach_is_refused(monkeypatch, host):
    listening(monkeypatch, host)
    with pytest.raises(ValueError, match=f"open_without_keys.*{host}"):
        await entrance.require_loopback()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", None])
async def test_one_that_only_this_machine_reaches_is_not(monkeypatch, host):
    listening(monkeypatch, host)
    await entrance.require_loopback()
