"""`python -m app`, as a user meets it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import placement.cli
from app import cli, command_line
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


@pytest.mark.parametrize(
    ("package", "commands"), [("app", cli.COMMANDS), ("placement", placement.cli.COMMANDS)]
)
def test_every_command_explains_itself(package: str, commands: dict[str, str], capsys):
    for name in commands:
        with pytest.raises(SystemExit) as exit_:
            command_line.run(package, "", commands, [name, "--help"])
        assert exit_.value.code == 0
        assert f"usage: python -m {package} {name} [-h]" in capsys.readouterr().out


def test_a_reader_that_has_enough_ends_it_quietly():
    program = "from app.cli import main; import sys; sys.exit(main(['config-reference']))"
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    # Long before it writes.
    run.stdout.close()
    _, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (0, b"")


def test_only_the_command_that_is_asked_for_is_imported():
    program = "import sys; from app.cli import main; main(['config-reference']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    imported = set(run.stdout.splitlines()[-1].split())
    assert "app.commands.config_reference" in imported
    assert not imported & {"app.commands.chat", "app.commands.validate", "app.validation", "rich"}


def test_without_a_command_the_commands_are_named(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert "COMMAND" in capsys.readouterr().err
