"""Servers that send too little, or nothing but headers and frames, are given up, wherever in an answer they do it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from file_server import DATA, Behaviour, Server, get, left, refused, serve, unframed

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n" % len(DATA) + DATA + b"\r\n"


def then_for_ever(begin: bytes, more: bytes, *, every: float = 0.0) -> Behaviour:
    """`begin` at once, and then `more` again and again."""

    def behave(visit: Any) -> None:
        visit.wfile.write(begin)
        try:
            while not visit.owner.over.is_set():
                visit.wfile.write(more)
                visit.wfile.flush()
                time.sleep(every)
        except OSError:
            pass  # the client has seen enough

    return behave


@pytest.mark.parametrize(
    "begin",
    [b"HTTP/1.1 200 ", OK + b"X: ", CHUNKED, OK + b"Content-Length: 2097152\r\n\r\nPK"],
    ids=["status line", "header", "size of a chunk", "body"],
)
def test_a_byte_now_and_then_counts_as_stalled(server: Server, target: Path, begin: bytes) -> None:
    """Each byte comes long before the timeout of a single wait."""
    begun = time.monotonic()
    url = server.offers("/a", then_for_ever(begin, b"1", every=0.01))
    assert "no answer in time, 4 times" in refused([url], target, timeout=0.2)
    assert time.monotonic() - begun < 20


def test_a_trailer_without_end_costs_a_complete_file_nothing(server: Server, target: Path) -> None:
    begun = time.monotonic()
    get([server.offers("/a", then_for_ever(CHUNKED + CHUNK + b"0\r\n", b"1", every=0.01))], target, timeout=0.2)
    assert target.read_bytes() == DATA
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"", 40 * b"HTTP/1.1 100 Continue\r\n\r\n"), (CHUNKED + CHUNK + b"0\r\n", b"X: " + b"y" * 9_000 + b"\r\n")],
    ids=["informational", "trailers"],
)
def test_headers_without_end_are_a_cut(server: Server, target: Path, begin: bytes, more: bytes) -> None:
    url = server.offers("/a", then_for_ever(begin, more))
    assert "the connection was cut, 4 times" in refused([url], target, size=None, sha256=None)


def test_an_endless_body_ends_at_the_limit(server: Server, target: Path) -> None:
    url = server.offers("/a", then_for_ever(CHUNKED + CHUNK, CHUNK))
    said = refused([url], target, size=None, sha256=None, limit=5 * len(DATA))
    assert f"sends more than {5 * len(DATA)} bytes" in said
    assert left(target) == []


def test_a_slow_disk_is_no_stall(server: Server, target: Path) -> None:
    """Time that the reader spends elsewhere is not the server's."""
    get([server.offers("/a", serve(DATA))], target, timeout=0.05, on_progress=lambda _done, _total: time.sleep(0.05))
    assert target.read_bytes() == DATA


def test_a_body_that_ends_with_the_connection_is_read(server: Server, target: Path) -> None:
    get([server.offers("/a", unframed(DATA))], target)
    assert target.read_bytes() == DATA
