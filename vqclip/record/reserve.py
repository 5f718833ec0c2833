"""Keeps room on the disk for what a run is made for, so that frames and metrics cannot use it up."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from vqclip.job import ResourceError

FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEXTS: Final = 256 << 10  # bytes of run.json, of the recipe inside the picture and of the page without pictures
_COPIES: Final = 2.8  # of the picture: itself, and on the page in base64 with its poster
_ZEROS: Final = bytes(1 << 16)


class Reserve:
    """A hidden file in `folder` as large as the result of a run may become, until `release`.

    Raises ResourceError when there is no such room: better before the work than after it.
    """

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        self._path: Path | None = folder / f".reserve-{secrets.token_hex(8)}"
        needed = room(size)
        try:
            handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            try:
                _fill(handle, needed)
            finally:
                os.close(handle)
        except OSError as error:
            self.release()
            if error.errno in FULL:
                raise ResourceError(
                    f"{folder}: no room for the result, {needed / 1e6:.1f} MB; free some space, or set outputs to a "
                    "folder elsewhere"
                ) from error
            raise ResourceError(f"{folder} cannot be written ({error.strerror or error})") from error

    def is_at(self, path: Path) -> bool:
        """Whether a file is this one."""
        return path == self._path

    def release(self) -> None:
        """Give the room back, for the result. Further calls change nothing; never fails."""
        path, self._path = self._path, None
        if path is not None:
            with suppress(OSError):
                path.unlink()


def room(size: tuple[int, int]) -> int:
    """Bytes that the result of a run takes at most, but for its film: picture (width, height), run.json and page."""
    return _TEXTS + int(_COPIES * 3 * size[0] * size[1])


def _fill(handle: int, needed: int) -> None:
    """Take the room really: a file with holes would reserve nothing."""
    try:
        os.posix_fallocate(handle, 0, needed)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        for start in range(0, needed, len(_ZEROS)):
            os.write(handle, _ZEROS[: needed - start])
