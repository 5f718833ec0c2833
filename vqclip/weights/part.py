"""The bytes of a download that are there so far: keeps, hashes and installs them. Opens no connection."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from io import FileIO
from pathlib import Path
from types import TracebackType

from vqclip.job import ResourceError

RESERVE = 64 * 2**20  # bytes of the disk that a download leaves free


class DamagedError(Exception):
    """The finished bytes are not the ones that were asked for. They have been thrown away."""


class Part:
    """`<target>.part`, and in `<target>.part.json` what the server said of the bytes in it.

    For one process at a time; the caller holds a lock. Use it in a `with`: the part outlives the block,
    so that a later one can go on with it, unless it is empty or installed. Every failure to write
    raises ResourceError. `done` counts the bytes kept.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.done = 0
        self._path = target.with_name(f"{target.name}.part")
        self._notes_path = target.with_name(f"{target.name}.part.json")
        self._notes: dict[str, str] = {}
        self._hash = hashlib.sha256()
        self._file: FileIO | None = None

    def __enter__(self) -> Part:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._path, "a+b", buffering=0, opener=_own)
            self._file.seek(0)
            self._hash = hashlib.file_digest(self._file, "sha256")
            self.done = self._file.tell()
        except OSError as error:
            raise self._unwritable(error) from error
        self._notes = self._read_notes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            if not self.done:
                self._path.unlink(missing_ok=True)
                self._notes_path.unlink(missing_ok=True)

    def _read_notes(self) -> dict[str, str]:
        try:
            notes = json.loads(self._notes_path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}  # without notes the part is worth less, and that is all
        return {key: value for key, value in notes.items() if isinstance(value, str)} if isinstance(notes, dict) else {}

    def resume(self, url: str, *, sha256: str | None) -> dict[str, str]:
        """The request headers that go on with the part, {} from the beginning.

        With a hash to check at the end, bytes from any mirror will do. Without one only those of the
        same address that can still be recognised by a validator; others are thrown away.
        """
        validator = self.validator(url)
        if sha256 is None and validator is None:
            self.clear()
        if not self.done:
            return {}
        return {"Range": f"bytes={self.done}-"} | ({"If-Range": validator} if validator else {})

    def validator(self, url: str) -> str | None:
        """A strong ETag or the date that the server gave for the bytes kept, if `url` gave them."""
        if self._notes.get("url") != url:
            return None
        for given in (self._notes.get("etag", ""), self._notes.get("modified", "")):
            if given and not given.startswith("W/") and given.isascii() and given.isprintable():
                return given
        return None

    def is_other(self, url: str, *, etag: str | None) -> bool:
        """Whether this address now announces other bytes than those kept."""
        return self._notes.get("url") == url and bool(etag) and self._notes.get("etag", etag) != etag

    def note(self, url: str, *, etag: str | None, modified: str | None) -> None:
        """Keep what the server said, before the first byte: a process that is killed writes nothing later.

        Raises:
            ResourceError: the disk refuses.
        """
        given = {"url": url, "etag": etag, "modified": modified}
        self._notes = {key: value for key, value in given.items() if value}
        try:
            handle = _own(str(self._notes_path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(json.dumps(self._notes))
        except OSError as error:
            raise self._unwritable(error) from error

    def write(self, data: bytes) -> None:
        """Append bytes; ResourceError where the disk refuses, with what it took counted."""
        assert self._file is not None
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            written = len(data) - len(rest)
            self._hash.update(data[:written])
            self.done += written

    def clear(self) -> None:
        """Throw the bytes away and begin again; ResourceError where the disk refuses."""
        assert self._file is not None
        try:
            self._file.truncate(0)
            self._notes_path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        self._notes, self._hash, self.done = {}, hashlib.sha256(), 0

    def check_space(self, total: int | None) -> None:
        """Raises ResourceError when the rest of `total` bytes does not fit on the disk."""
        free = shutil.disk_usage(self.target.parent).free
        needed = (total or 0) - self.done
        if needed > 0 and needed + RESERVE > free:
            raise ResourceError(
                f"{self.target.name}: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB free in "
                f"{self.target.parent}; make room, or set VQCLIP_HOME to a folder elsewhere"
            )

    def install(self, sha256: str | None) -> str:
        """Put the bytes in place at once and durably, and return their SHA-256.

        Raises:
            DamagedError: they are not those of `sha256`. ResourceError: the disk refuses.
        """
        assert self._file is not None
        digest = self._hash.hexdigest()
        if sha256 not in (None, digest):
            self.clear()
            raise DamagedError(f"SHA-256 is {digest[:12]}..., {str(sha256)[:12]}... is expected")
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            os.replace(self._path, self.target)
            self._notes_path.unlink(missing_ok=True)
            _sync_folder(self.target.parent)
        except OSError as error:
            raise self._unwritable(error) from error
        return digest

    def _unwritable(self, error: OSError) -> ResourceError:
        return ResourceError(
            f"{self.target} cannot be written ({error.strerror or error}); make room, or set VQCLIP_HOME to a "
            "folder elsewhere"
        )


def _own(name: str, flags: int) -> int:
    """Open a file of that very name: never what a link there leads to, nor waiting for the other end of a pipe."""
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and rename is durable enough
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
