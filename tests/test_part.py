"""What is kept of a download: hashed, gone on with, never installed wrong, and what a full disk does."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from file_server import (
    DATA,
    HASH,
    MB,
    OTHER,
    Server,
    get,
    keep,
    left,
    part_of,
    refused,
    serve,
    sha256,
)

from vqclip.job import ResourceError
from vqclip.weights.part import RESERVE


def test_a_killed_download_is_gone_on_with_by_the_next(server: Server, target: Path) -> None:
    """At least 90 % of what was there is not sent again."""
    keep(target, DATA[: len(DATA) * 9 // 10])
    get([server.offers("/a", serve(DATA))], target)
    assert target.read_bytes() == DATA
    assert server.sent <= len(DATA) - len(DATA) * 9 // 10
    assert left(target) == ["model.ckpt"]


def test_a_complete_part_needs_no_request(server: Server, target: Path) -> None:
    keep(target, DATA)
    get([server.offers("/a", serve(DATA))], target)
    assert server.requests == []


def test_a_part_longer_than_the_file_is_dropped(server: Server, target: Path) -> None:
    keep(target, DATA + b"more")
    get([server.offers("/a", serve(DATA))], target)
    assert target.read_bytes() == DATA
    assert "range" not in server.requests[0][1]


def test_a_damaged_part_costs_one_more_download(server: Server, target: Path) -> None:
    keep(target, OTHER[:MB])
    get([server.offers("/a", serve(DATA))], target)
    assert target.read_bytes() == DATA
    assert len(server.requests) == 2


@pytest.mark.parametrize("notes", ["", "[1]", '{"url": 5}', "{" * 100_000, "\0"])
def test_damaged_notes_are_no_notes(server: Server, target: Path, notes: str) -> None:
    keep(target, DATA[:MB])
    target.with_name("model.ckpt.part.json").write_text(notes)
    get([server.offers("/a", serve(DATA))], target)
    assert target.read_bytes() == DATA
    assert server.sent == len(DATA) - MB


def test_a_hostile_validator_is_not_sent_back(server: Server, target: Path) -> None:
    url = server.offers("/a", serve(DATA))
    keep(target, DATA[:MB], url=url, etag='"a\r\nHost: evil"')
    get([url], target)
    assert target.read_bytes() == DATA
    assert "if-range" not in server.requests[0][1]


def test_a_full_disk_is_noticed_before_the_request(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(DATA) + RESERVE - 1))
    with pytest.raises(ResourceError, match=r"model.ckpt: 2 MB are needed and 69 MB free in .*VQCLIP_HOME"):
        get([server.offers("/a", serve(DATA))], target)
    assert server.requests == []
    assert left(target) == []


def test_a_full_disk_is_noticed_when_the_server_names_the_size(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(DATA) + RESERVE - 1))
    with pytest.raises(ResourceError, match="2 MB are needed"):
        get([server.offers("/a", serve(DATA))], target, size=None, sha256=None)
    assert left(target) == []


def test_a_disk_that_fills_up_ends_it_with_the_part_kept(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqclip.weights import part

    class Full(part.FileIO):
        def write(self, data: Any, /) -> int:
            if self.tell() >= MB:
                raise OSError(28, "No space left on device")
            return super().write(data[:1000])

    monkeypatch.setattr(part, "open", lambda path, mode, **_: Full(path, mode.replace("b", "")), raising=False)
    with pytest.raises(ResourceError, match=r"model.ckpt cannot be written \(No space left on device\)"):
        get([server.offers("/a", serve(DATA))], target)
    assert not target.exists()
    assert part_of(target).read_bytes() == DATA[: part_of(target).stat().st_size]
    monkeypatch.undo()
    get([server.offers("/b", serve(DATA))], target)
    assert target.read_bytes() == DATA
    assert server.requests[-1][1]["range"].startswith("bytes=")


def test_a_folder_that_cannot_be_made_is_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(ResourceError, match="cannot be written"):
        get([server.offers("/a", serve(DATA))], tmp_path / "store" / "model.ckpt")
    assert server.requests == []


def test_an_interrupt_keeps_what_is_there(server: Server, target: Path) -> None:
    def interrupt(done: int, _total: int | None) -> None:
        if done >= MB:
            raise KeyboardInterrupt

    url = server.offers("/a", serve(DATA))
    with pytest.raises(KeyboardInterrupt):
        get([url], target, on_progress=interrupt)
    kept = part_of(target).stat().st_size
    assert kept >= MB
    assert not target.exists()
    get([url], target)
    assert target.read_bytes() == DATA
    assert server.requests[1][1]["range"] == f"bytes={kept}-"


def test_the_old_file_stays_until_the_new_one_is_whole(server: Server, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(b"old")
    refused([server.offers("/a", serve(OTHER))], target)
    get([server.offers("/b", serve(DATA))], target)
    assert target.read_bytes() == DATA


def test_readers_never_see_half_a_file(server: Server, target: Path) -> None:
    over, sizes = threading.Event(), set()

    def watch() -> None:
        while not over.is_set():
            if target.exists():
                sizes.add(target.stat().st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        get([server.offers("/a", serve(DATA, stop_at=MB), serve(DATA))], target)
    finally:
        over.set()
        watcher.join()
    assert sizes <= {len(DATA)}


def test_a_wrong_hash_is_never_installed(server: Server, target: Path) -> None:
    message = refused([server.offers("/a", serve(OTHER))], target)
    assert HASH[:12] in message and sha256(OTHER)[:12] in message
    assert len(server.requests) == 1  # the same bytes would come again
    assert left(target) == []


def test_after_a_wrong_hash_the_next_mirror_is_asked(server: Server, target: Path) -> None:
    get([server.offers("/a", serve(OTHER)), server.offers("/b", serve(DATA))], target)
    assert target.read_bytes() == DATA
    assert "range" not in server.requests[-1][1]


def test_one_flipped_bit_is_found(server: Server, target: Path) -> None:
    flipped = bytearray(DATA)
    flipped[-1] ^= 1
    refused([server.offers("/a", serve(bytes(flipped)))], target)
