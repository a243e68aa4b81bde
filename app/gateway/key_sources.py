"""Keys from a file and from the environment, beside the configuration's; the file may change while we serve.

Both hold `TENANT:SHA-256` entries, never keys: one a line in a file (`#` begins a comment), separated by
white space or commas in a variable.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from app.gateway.tenants import ApiKeys

logger = logging.getLogger("ray.serve")

# A key that is taken away is refused after this.
RELOAD_AFTER_S = 1.0
# Ten thousand keys of 100 bytes.
MAX_FILE_BYTES = 1024 * 1024
_ENTRY = re.compile(r"(?P<tenant>[^\s:,#][^\s,#]*):(?P<hash>[0-9a-f]{64})")

HashesByTenant = dict[str, list[str]]


class KeySourceError(ValueError):
    """A source that can't be used. Says where and why, never what stands there: it may be a key."""


def parse_entries(where: str, entries: list[str]) -> HashesByTenant:
    """Raises KeySourceError for what is not `TENANT:SHA-256`."""
    found: HashesByTenant = {}
    for number, entry in enumerate(entries, start=1):
        match = _ENTRY.fullmatch(entry)
        if match is None:
            raise KeySourceError(f"{where}: entry {number} is not TENANT:SHA-256 (64 hexadecimal digits)")
        found.setdefault(match["tenant"], []).append(match["hash"])
    if not found:
        raise KeySourceError(f"{where}: there is no key in it")
    return found


def read_variable(name: str, environment: Mapping[str, str]) -> HashesByTenant:
    """Raises KeySourceError when the variable is not set or not right."""
    value = environment.get(name)
    if value is None:
        raise KeySourceError(f"api_keys_env: {name} is not set")
    return parse_entries(f"api_keys_env: {name}", value.replace(",", " ").split())


def read_file(path: Path) -> HashesByTenant:
    """Raises KeySourceError when it can't be read, is not right, or others may write to it."""
    where = "api_keys_file"
    try:
        status = path.stat()
        if status.st_size > MAX_FILE_BYTES:
            raise KeySourceError(f"{where}: more than {MAX_FILE_BYTES} bytes")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise KeySourceError(f"{where}: others than its owner may write to it")
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise KeySourceError(f"{where}: it can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeySourceError(f"{where}: it is not UTF-8") from None
    entries = (line.partition("#")[0].strip() for line in lines)
    return parse_entries(where, [entry for entry in entries if entry])


class KeyRing:
    """The keys of all sources: `app.gateway.tenants.Tenants`.

    Raises KeySourceError or ValueError when a source can't be used at the start. Later a file that can't be
    used changes nothing: the last good keys stay, and the log says so.
    """

    def __init__(
        self,
        fixed: Mapping[str, list[str]],
        *,
        file: str | None = None,
        variable: str | None = None,
        open_without_keys: bool = False,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fixed: HashesByTenant = {tenant: list(hashes) for tenant, hashes in fixed.items()}
        if variable is not None:
            _add(self._fixed, read_variable(variable, environment))
        self._file = None if file is None else Path(file)
        self._open_without_keys = open_without_keys
        self._clock = clock
        self._checked_s = clock()
        self._seen = self._version()
        self._keys = self._read()

    @property
    def is_open(self) -> bool:
        return self._keys.is_open

    def tenant(self, key: str | None) -> str:
        """Raises ApiError 401 for a key that is missing or not known."""
        if self._file is not None and self._clock() - self._checked_s >= RELOAD_AFTER_S:
            self._reload()
        return self._keys.tenant(key)

    def _reload(self) -> None:
        self._checked_s = self._clock()
        seen = self._version()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._keys = self._read()
        except ValueError as error:
            logger.error("Keys are not reloaded, the last good ones stay: %s", error)
        else:
            logger.info("Keys are reloaded.")

    def _read(self) -> ApiKeys:
        hashes = {tenant: list(known) for tenant, known in self._fixed.items()}
        if self._file is not None:
            _add(hashes, read_file(self._file))
        return ApiKeys(hashes, open_without_keys=self._open_without_keys)

    def _version(self) -> tuple[int, ...] | None:
        """What changes with the file; None where there is none."""
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


def _add(hashes: HashesByTenant, more: HashesByTenant) -> None:
    for tenant, known in more.items():
        hashes.setdefault(tenant, []).extend(known)
