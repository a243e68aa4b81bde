"""Keys from a file and a variable: what is refused at the start, and what a change does later."""

from __future__ import annotations

import logging
import os
from hashlib import sha256
from pathlib import Path

import pytest

from app.gateway.errors import ApiError
from app.gateway.key_sources import RELOAD_AFTER_S, KeyRing, KeySourceError
from app.gateway.tenants import ApiKeys


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def entry(tenant: str, key: str) -> str:
    return f"{tenant}:{hashed(key)}"


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(
        f"# Ours\n{entry('blue', 'b1')}\n\n{entry('blue', 'b2')}  # the second\n{entry('red', 'r')}\n"
    )
    return path


def refused(ring: KeyRing | ApiKeys, key: str | None) -> str:
    with pytest.raises(ApiError) as caught:
        ring.tenant(key)
    assert caught.value.status == 401
    return caught.value.code


def test_every_source_opens_for_its_tenants(file):
    ring = KeyRing(
        {"green": [hashed("g")]},
        file=str(file),
        variable="KEYS",
        environment={"KEYS": f"{entry('black', 'k')}, {entry('blue', 'b3')}\n"},
    )
    keys = {"g": "green", "b1": "blue", "b2": "blue", "b3": "blue", "r": "red", "k": "black"}
    assert {key: ring.tenant(key) for key in keys} == keys
    assert not ring.is_open


@pytest.mark.parametrize(
    "key", ["", "b", "b11", "B1", " b1", "b1 ", "b1\x00", "bl", hashed("b1"), "ключ", "\udcff", "b1" * 10_000]
)
def test_nothing_but_the_whole_key_opens(file, key):
    assert refused(KeyRing({}, file=str(file)), key) == "invalid_api_key"


def test_a_key_of_any_characters_opens():
    ring = ApiKeys({"blue": [hashed("schlüssel ключ 鍵")]})
    assert ring.tenant("schlüssel ключ 鍵") == "blue"


def test_no_key_is_told_from_a_wrong_one(file):
    assert refused(KeyRing({}, file=str(file)), None) == "missing_api_key"


def test_every_hash_is_compared_whichever_matches(monkeypatch):
    compared = []
    known = [hashed(key) for key in "abc"]
    ring = ApiKeys({"blue": known})

    def counting(left: bytes, right: bytes) -> bool:
        compared.append(left.hex())
        return left == right

    monkeypatch.setattr("app.gateway.tenants.hmac.compare_digest", counting)
    assert ring.tenant("a") == "blue"
    assert compared == known


def test_without_a_key_nobody_is_served_unless_that_is_said():
    with pytest.raises(ValueError, match="open_without_keys is false"):
        KeyRing({})
    ring = KeyRing({}, open_without_keys=True)
    assert (ring.is_open, ring.tenant(None), ring.tenant("anything")) == (True, "default", "default")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "there is no key in it"),
        ("# nothing\n", "there is no key in it"),
        ("blue:sk-plain-secret\n", "entry 1 is not TENANT:SHA-256"),
        (f"{entry('blue', 'b')}\nsk-plain-secret\n", "entry 2 is not TENANT:SHA-256"),
        (f"{hashed('b')}\n", "entry 1 is not TENANT:SHA-256"),
        (f":{hashed('b')}\n", "entry 1 is not TENANT:SHA-256"),
        (f"blue:{hashed('b').upper()}\n", "entry 1 is not TENANT:SHA-256"),
        (f"{entry('blue', 'x')}\n{entry('red', 'x')}\n", "a key of 'red' is 'blue''s already"),
    ],
)
def test_a_file_that_is_not_right_refuses_to_start_and_shows_no_key(file, text, reason):
    file.write_text(text)
    with pytest.raises(ValueError, match=reason) as caught:
        KeyRing({}, file=str(file))
    assert "secret" not in str(caught.value)
    assert hashed("b") not in str(caught.value)


def test_a_file_that_can_not_be_trusted_or_read_refuses_to_start(file, tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(KeySourceError, match="it can't be read"):
            KeyRing({}, file=str(path))
    file.chmod(0o666)
    with pytest.raises(KeySourceError, match="others than its owner may write"):
        KeyRing({}, file=str(file))
    file.chmod(0o600)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(KeySourceError, match="not UTF-8"):
        KeyRing({}, file=str(file))
    file.write_text("x" * 2**20 + "x")
    with pytest.raises(KeySourceError, match="more than"):
        KeyRing({}, file=str(file))


def test_a_variable_that_is_not_there_or_not_right_refuses_to_start():
    with pytest.raises(KeySourceError, match="KEYS is not set"):
        KeyRing({}, variable="KEYS", environment={})
    with pytest.raises(KeySourceError, match="no key"):
        KeyRing({}, variable="KEYS", environment={"KEYS": " "})
    with pytest.raises(KeySourceError, match="entry 1") as caught:
        KeyRing({}, variable="KEYS", environment={"KEYS": "sk-secret"})
    assert "sk-secret" not in str(caught.value)


def replaced(file: Path, text: str) -> None:
    """As an editor or Kubernetes does it: another file in its place."""
    new = file.with_name("new")
    new.write_text(text)
    os.replace(new, file)


def test_a_changed_file_counts_within_a_second_without_a_restart(file):
    clock = Clock()
    ring = KeyRing({}, file=str(file), clock=clock)
    replaced(file, entry("red", "new"))
    assert ring.tenant("b1") == "blue"
    clock.now_s = RELOAD_AFTER_S
    assert ring.tenant("new") == "red"
    assert refused(ring, "b1") == "invalid_api_key"


def test_a_change_for_the_worse_keeps_the_last_good_keys_says_so_once_and_ends(file, caplog):
    clock = Clock()
    ring = KeyRing({}, file=str(file), clock=clock)
    for text in ("", "sk-plain-secret", None):
        if text is None:
            file.unlink()
        else:
            replaced(file, text)
        caplog.clear()
        with caplog.at_level(logging.INFO, "ray.serve"):
            for _ in range(3):
                clock.now_s += RELOAD_AFTER_S
                assert ring.tenant("b1") == "blue"
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert "the last good ones stay" in record.message
        assert "secret" not in record.message
    replaced(file, entry("red", "new"))
    clock.now_s += RELOAD_AFTER_S
    assert ring.tenant("new") == "red"
