"""Answers of file servers: pieces that fit, lengths that agree, pages that are no files, bodies without end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from file_server import (
    DATA,
    HASH,
    HTML,
    MB,
    OTHER,
    Behaviour,
    Server,
    chunked,
    drip,
    get,
    keep,
    left,
    part_of,
    refused,
    serve,
    sha256,
    unframed,
    whole,
)


@pytest.mark.parametrize("validators", [{"etag": 'W/"weak"', "modified": "Tue, 05 Jan 2021 00:00:00 GMT"}])
def test_a_date_serves_where_the_etag_is_weak(server: Server, target: Path, validators: dict[str, str]) -> None:
    url = server.offers("/a", serve(DATA, stop_at=MB, **validators), serve(DATA, **validators))
    get([url], target, sha256=None)
    assert target.read_bytes() == DATA
    assert server.requests[1][1]["if-range"] == validators["modified"]


@pytest.mark.parametrize("known", [HASH, None], ids=["hash", "no hash"])
def test_a_changed_etag_begins_anew(server: Server, target: Path, known: str | None) -> None:
    url = server.offers("/a", serve(OTHER, stop_at=MB), serve(DATA, etag='"second"'))
    get([url], target, sha256=known)
    assert target.read_bytes() == DATA
    assert server.sent == MB + len(DATA)


def test_a_206_under_a_changed_etag_is_not_appended(server: Server, target: Path) -> None:
    piece = whole(DATA[MB:], 206, ETag='"second"', Content_Range=f"bytes {MB}-{len(DATA) - 1}/{len(DATA)}")
    get([server.offers("/a", serve(OTHER, stop_at=MB), piece, serve(DATA, etag='"second"'))], target, sha256=None)
    assert target.read_bytes() == DATA


def test_a_200_in_place_of_a_206_replaces_the_part(server: Server, target: Path) -> None:
    get([server.offers("/a", serve(DATA, stop_at=MB), whole(DATA))], target)
    assert target.read_bytes() == DATA
    assert "range" in server.requests[1][1]


@pytest.mark.parametrize(
    "piece",
    [
        whole(DATA[MB + 1 :], 206, Content_Range=f"bytes {MB + 1}-{len(DATA) - 1}/{len(DATA)}"),
        whole(DATA, 206, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}"),
        whole(DATA[MB:], 206),
        whole(DATA[MB:], 206, Content_Range="bytes x-y/z"),
    ],
    ids=["later", "earlier", "unsaid", "nonsense"],
)
def test_a_piece_that_does_not_fit_is_not_appended(server: Server, target: Path, piece: Behaviour) -> None:
    get([server.offers("/a", serve(DATA, stop_at=MB), piece, serve(DATA))], target)
    assert target.read_bytes() == DATA
    assert "range" not in server.requests[-1][1]


def test_a_206_to_a_request_for_everything_is_refused(server: Server, target: Path) -> None:
    piece = whole(DATA, 206, Content_Range=f"bytes 0-{len(DATA) - 1}/{len(DATA)}")
    assert "a piece of the file" in refused([server.offers("/a", piece)], target)


def test_a_416_for_a_complete_part_completes_it(server: Server, target: Path) -> None:
    keep(target, DATA)
    get([server.offers("/a", serve(DATA))], target, size=None)
    assert target.read_bytes() == DATA
    assert server.sent == 0


def test_a_416_for_anything_else_begins_anew(server: Server, target: Path) -> None:
    keep(target, DATA + b"more")
    get([server.offers("/a", serve(DATA))], target, size=None)
    assert target.read_bytes() == DATA
    assert "range" not in server.requests[-1][1]


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b""], ids=["short", "long", "empty"])
@pytest.mark.parametrize("known", [HASH, None], ids=["hash", "no hash"])
def test_a_wrong_length_is_refused_at_once(server: Server, target: Path, data: bytes, known: str | None) -> None:
    message = refused([server.offers("/a", whole(data))], target, sha256=known)
    assert f"{len(data)} bytes" in message
    assert left(target) == []


def test_an_endless_body_is_stopped_at_the_size(server: Server, target: Path) -> None:
    assert f"sends more than {len(DATA)} bytes" in refused([server.offers("/a", chunked(DATA * 3))], target)
    assert left(target) == []


def test_a_body_of_unknown_size_has_an_end_in_time(server: Server, target: Path) -> None:
    unknown: dict[str, Any] = {"size": None, "sha256": None}
    place = server.offers("/a", chunked(DATA))
    assert "does not come to an end" in refused([place], target, **unknown, longest=-1.0)
    assert not target.exists()
    get([place], target, **unknown)
    assert target.read_bytes() == DATA


def test_an_unknown_size_has_a_limit_too(server: Server, target: Path) -> None:
    unknown: dict[str, Any] = {"size": None, "sha256": None, "limit": MB}
    assert "1 to 1048576 are taken" in refused([server.offers("/a", serve(DATA))], target, **unknown)
    assert "sends more than 1048576" in refused([server.offers("/b", chunked(DATA))], target, **unknown)


def test_chunked_bodies_are_read_and_breaks_in_them_noticed(server: Server, target: Path) -> None:
    unknown: dict[str, Any] = {"size": None, "sha256": None}
    get([server.offers("/a", chunked(DATA, end=False), chunked(DATA))], target, **unknown)
    assert target.read_bytes() == DATA


def test_a_body_of_unknown_length_needs_a_size_or_hash(server: Server, target: Path) -> None:
    url = server.offers("/a", unframed(DATA))
    assert "does not say how long" in refused([url], target, size=None, sha256=None)
    get([url], target, size=None)
    assert target.read_bytes() == DATA


@pytest.mark.parametrize(
    "page",
    [
        whole(HTML, Content_Type="text/html; charset=utf-8"),
        whole(HTML, Content_Type="application/octet-stream"),
        whole(b'{"error": "Repository not found, or it needs a token"}', Content_Type="application/json"),
        whole(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 980092370\n"),
        whole(HTML),
        whole(b"--x\r\n" + DATA, Content_Type="multipart/byteranges; boundary=x"),
        whole(DATA, Content_Encoding="gzip"),
    ],
    ids=["html", "html as bytes", "json", "pointer", "html untyped", "multipart", "gzip"],
)
def test_a_page_is_no_file(server: Server, target: Path, page: Behaviour) -> None:
    keep(target, DATA[:MB])
    url = server.offers("/a", page)
    refused([url], target, size=None)
    assert part_of(target).read_bytes() == DATA[:MB]  # what was good is not lost to it
    get([server.offers("/b", page), server.offers("/c", serve(DATA))], target)
    assert target.read_bytes() == DATA


def test_a_page_with_status_206_is_no_piece(server: Server, target: Path) -> None:
    keep(target, DATA[:MB])
    page = whole(DATA[MB:], 206, Content_Type="text/html", Content_Range=f"bytes {MB}-{len(DATA) - 1}/{len(DATA)}")
    assert "a page" in refused([server.offers("/a", page)], target)


def test_a_slow_drip_counts_as_stalled(server: Server, target: Path) -> None:
    url = server.offers("/a", drip(DATA, every=0.002))
    assert "no answer in time, 4 times" in refused([url], target, timeout=0.1)


def test_a_first_byte_alone_is_no_text(server: Server, target: Path) -> None:
    """ "P" is printable, the file is not: networks cut anywhere."""
    get([server.offers("/a", drip(DATA[:300], every=0.001))], target, size=300, sha256=sha256(DATA[:300]))
    assert target.read_bytes() == DATA[:300]


def test_broken_headers_are_a_cut(server: Server, target: Path) -> None:
    def nonsense(visit: Any) -> None:
        visit.wfile.write(b"SSH-2.0-OpenSSH_9\r\n\r\n")

    get([server.offers("/a", nonsense, serve(DATA))], target)
    assert target.read_bytes() == DATA


def test_without_a_validator_or_hash_nothing_is_gone_on_with(server: Server, target: Path) -> None:
    url = server.offers("/a", serve(OTHER, etag=None, stop_at=MB), serve(DATA, etag=None))
    get([url], target, sha256=None)
    assert target.read_bytes() == DATA
    assert "range" not in server.requests[-1][1]
