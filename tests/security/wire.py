"""Hostile bytes below HTTP clients: what only a socket can send."""

from __future__ import annotations

from tests.security.corpus import GOOD

_LENGTH = f"content-length: {len(GOOD)}".encode()
_HOST = b"host: x"


def _request(*lines: bytes, content: bytes = b"") -> bytes:
    return b"\r\n".join([*lines, b"", content])


_POST = b"POST /v1/completions HTTP/1.1"
_CHUNKED = b"transfer-encoding: chunked"
_GOOD_CHUNK = hex(len(GOOD))[2:].encode() + b"\r\n" + GOOD + b"\r\n0\r\n\r\n"
_SMUGGLED = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"

# Each gets a 4xx, a good answer, or a closed connection; nothing smuggled gets an answer of its own.
WIRE: dict[str, bytes] = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a line of nothing": b"\r\n\r\n\r\n\r\n",
    "a method that is none": _request(b"\x01\x02 / HTTP/1.1", _HOST),
    "a method of 10,000 letters": _request(b"A" * 10_000 + b" / HTTP/1.1", _HOST),
    "no version": _request(b"GET /health"),
    "HTTP/0.9": b"GET /health\r\n",
    "HTTP/9.9": _request(b"GET /health HTTP/9.9", _HOST),
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": _request(b"CONNECT 127.0.0.1:6379 HTTP/1.1", _HOST),
    "a trace": _request(b"TRACE / HTTP/1.1", _HOST),
    "a proxy's address": _request(b"GET http://169.254.169.254/ HTTP/1.1", _HOST),
    "a path of 100,000 characters": _request(b"GET /" + b"a" * 100_000 + b" HTTP/1.1", _HOST),
    "a raw nul in the path": _request(b"GET /\x00 HTTP/1.1", _HOST),
    "raw bytes in the path": _request(b"GET /\xff\xfe HTTP/1.1", _HOST),
    "a header of 1 MB": _request(b"GET /health HTTP/1.1", _HOST, b"x: " + b"a" * 1_000_000),
    "5,000 headers": _request(b"GET /health HTTP/1.1", _HOST, *[b"x: a"] * 5000),
    "a header without a name": _request(b"GET /health HTTP/1.1", _HOST, b": a"),
    "a header without a colon": _request(b"GET /health HTTP/1.1", _HOST, b"nonsense"),
    "a space before the colon": _request(_POST, _HOST, b"content-length : 5", content=GOOD),
    "a folded header": _request(_POST, _HOST, b"x: a", b" b", _LENGTH, content=GOOD),
    "a nul in a header": _request(b"GET /health HTTP/1.1", _HOST, b"x: a\x00b"),
    "a bare line break in a header": _request(b"GET /health HTTP/1.1", _HOST, b"x: a\nauthorization: b"),
    "two lengths": _request(_POST, _HOST, _LENGTH, b"content-length: 5", content=GOOD),
    "a length and chunks": _request(_POST, _HOST, _LENGTH, _CHUNKED, content=b"0\r\n\r\n" + _SMUGGLED),
    "chunks and a length": _request(
        _POST, _HOST, _CHUNKED, b"content-length: 4", content=_GOOD_CHUNK + _SMUGGLED
    ),
    "chunks in disguise": _request(_POST, _HOST, b"transfer-encoding: xchunked", content=_GOOD_CHUNK),
    "chunks twice": _request(_POST, _HOST, _CHUNKED, b"transfer-encoding: identity", content=_GOOD_CHUNK),
    "a chunk of negative size": _request(_POST, _HOST, _CHUNKED, content=b"-1\r\n\r\n"),
    "a chunk beyond 64 bits": _request(_POST, _HOST, _CHUNKED, content=b"f" * 20 + b"\r\n"),
    "a chunk with a long extension": _request(
        _POST, _HOST, _CHUNKED, content=b"1;" + b"a" * 50_000 + b"\r\n"
    ),
    "a negative length": _request(_POST, _HOST, b"content-length: -1", content=GOOD),
    "a length that is a word": _request(_POST, _HOST, b"content-length: many", content=GOOD),
    "a length beyond 64 bits": _request(_POST, _HOST, b"content-length: " + b"9" * 30, content=GOOD),
    "a body that is announced as 10 GB": _request(_POST, _HOST, b"content-length: 10737418240", content=GOOD),
    "two hosts": _request(b"GET /health HTTP/1.1", _HOST, b"host: y"),
    "a host with a path": _request(b"GET /health HTTP/1.1", b"host: x/../y"),
    "a web socket": _request(
        b"GET /v1/completions HTTP/1.1",
        _HOST,
        b"connection: upgrade",
        b"upgrade: websocket",
        b"sec-websocket-version: 13",
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==",
    ),
    "a version of HTTP that is offered": _request(
        b"GET /health HTTP/1.1", _HOST, b"upgrade: h2c", b"connection: upgrade"
    ),
    "an expectation": _request(_POST, _HOST, b"expect: 200-maybe", _LENGTH, content=GOOD),
}
