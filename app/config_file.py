"""Reads a Ray Serve configuration file down to the applications that it describes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from app.config import ApplicationConfig, refuse
from app.hosts import in_url
from app.loopback import is_loopback
from placement.topology import Problem


class ServedApplication(BaseModel):
    """An application of a Serve file: of Serve's own keys the name and the prefix, and our arguments."""

    name: str = "default"
    # None: Serve lets no HTTP client in.
    route_prefix: str | None = "/"
    args: ApplicationConfig


class ConfigFileError(ValueError):
    """A file that can't be used; `lines` hold one `field: value: reason` each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class HttpOptions(BaseModel):
    """Where Serve listens; its own defaults."""

    host: str = "0.0.0.0"
    port: int = 8000


class ServeFile(BaseModel):
    """A Serve file: what it serves, and where clients go."""

    http_options: HttpOptions = HttpOptions()
    applications: list[ServedApplication] = Field(min_length=1)

    def url(self, application: ServedApplication) -> str | None:
        """Its base, as a client on this machine reaches it; None where it has no prefix."""
        if application.route_prefix is None:
            return None
        host = self.http_options.host
        host = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        return f"http://{in_url(host)}:{self.http_options.port}{application.route_prefix.rstrip('/')}"

    @model_validator(mode="after")
    def _open_on_loopback_only(self) -> Self:
        refuse("ServeFile", self._open_to_others())
        return self

    def _open_to_others(self) -> Iterator[Problem]:
        host = self.http_options.host
        for number, application in enumerate(self.applications):
            if application.args.is_open and not is_loopback(host):
                field = ("applications", number, "args", "open_without_keys")
                reason = f"without keys only on a loopback address, and http_options.host is {host}"
                yield Problem(field, True, reason)


# A value is shown to be recognised, not read: a wrong one may be a whole section.
_SHOWN_CHARACTERS = 80


def load_applications(path: str | Path) -> list[ServedApplication]:
    """The applications of a file in Serve's schema. Raises ConfigFileError, whatever is wrong with it."""
    return load_file(path).applications


def load_file(path: str | Path) -> ServeFile:
    """The whole of it. Raises ConfigFileError."""
    try:
        return ServeFile.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigFileError([f"file: {path}: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigFileError([f"file: {path}: not YAML: {_one_line(str(error))}"]) from error
    except ValidationError as error:
        raise ConfigFileError(problem_lines(error)) from error


def problem_lines(error: ValidationError) -> list[str]:
    """One line an error: the path with dots, the value as it stands, the reason."""
    return [
        f"{'.'.join(map(str, problem['loc'])) or 'file'}: {_shown(problem['input'])}: {problem['msg']}"
        for problem in error.errors(include_url=False)
    ]


def problem_line(problem: Problem) -> str:
    """The same for what only a command can find."""
    return f"{'.'.join(map(str, problem.field))}: {_shown(problem.value)}: {problem.reason}"


def _shown(value: object) -> str:
    text = _one_line(repr(value))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _one_line(text: str) -> str:
    return " ".join(text.split())
