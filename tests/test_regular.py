"""Files that have no end are never read, nor waited for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from vqclip.weights import regular


def test_files_are_read_and_links_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with regular.opened(tmp_path / name) as file:
            assert file.read() == b"abc"


@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/dev/urandom", "socket", "link to a device"])
def test_what_has_no_end_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights"
    with socket.socket(socket.AF_UNIX) as open_socket:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            open_socket.bind(str(path))
        elif kind == "link to a device":
            path.symlink_to("/dev/zero")
        else:
            path = Path(kind)
        with pytest.raises(OSError, match="not a regular file|No such device or address"):
            regular.opened(path)


def test_a_missing_file_and_a_folder_are_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        regular.opened(tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        regular.opened(tmp_path)


def test_a_folder_is_looked_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")  # whoever needs it says that it is missing
    regular.check(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file") as caught:
        regular.check(tmp_path)
    assert caught.value.filename == str(tmp_path / "pipe")
