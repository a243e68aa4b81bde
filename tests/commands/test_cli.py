"""`python -m app`, as a user meets it."""

from __future__ import annotations

import pytest

from app.cli import main
from app.commands.server import KEY_VARIABLE


def test_an_address_that_is_none_is_named(capsys):
    assert main(["chat", "--url", "localhost:8000"]) == 2
    assert "--url: 'localhost:8000': not an http:// or https:// address" in capsys.readouterr().err


def test_where_nobody_listens_it_says_how_to_start(capsys):
    assert main(["chat", "--url", "http://127.0.0.1:1"]) == 1
    assert "Nobody answers at http://127.0.0.1:1. `scripts/serve` starts a server" in capsys.readouterr().err


def test_the_key_comes_from_the_environment_and_is_not_shown(monkeypatch):
    import argparse

    from app.commands.server import server_of

    monkeypatch.setenv(KEY_VARIABLE, "secret")
    server = server_of(argparse.Namespace(url="http://host:8000/v1/"))
    assert (server.url, server.headers) == ("http://host:8000", {"authorization": "Bearer secret"})
    assert "secret" not in repr(server)


def test_without_a_command_the_commands_are_named(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "COMMAND" in capsys.readouterr().err
