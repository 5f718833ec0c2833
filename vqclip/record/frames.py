"""Keeps the pictures that a film was shown, without loss, so that a run that goes on can make the same film.

An encoder's stream cannot be taken up again; what it was sent can be sent anew.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vqclip.images import MAX_SIDE

_HEAD: Final = struct.Struct("<4sIIHHI")  # mark, checksum of all that follows, step, height, width, bytes of pixels
_SUMMED: Final = 8  # bytes of the head before what is summed
_MARK: Final = b"VQF1"


class Frames:
    """The frames of one run in one file, added at its end.

    Args:
        path: of the file. length: bytes of it that are to be kept, those of a checkpoint; what comes after is cut off.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        self._file.truncate(length)
        self._file.seek(length)

    def add(self, frame: NDArray[np.uint8], step: int) -> None:
        """Add the picture of a step, (H, W, 3) uint8. Raises OSError, for example on a full disk."""
        packed = zlib.compress(frame.tobytes(), 1)
        rest = _HEAD.pack(_MARK, 0, step, *frame.shape[:2], len(packed))[_SUMMED:] + packed
        self._file.write(_MARK + struct.pack("<I", zlib.crc32(rest)) + rest)

    def settle(self) -> int:
        """Wait until all is on the disk; returns the bytes that there are. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file; what cannot be written any more is lost."""
        with suppress(OSError):
            self._file.close()


def replay(path: Path, length: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The steps and pictures, (H, W, 3) uint8, of the first `length` bytes of a file; ends where it is damaged."""
    with suppress(OSError, struct.error, zlib.error, ValueError), open(path, "rb") as file:
        while file.tell() < length:
            head = file.read(_HEAD.size)
            mark, checksum, step, height, width, size = _HEAD.unpack(head)
            whole = height * width * 3
            if mark != _MARK or max(height, width) > MAX_SIDE or size > 2 * whole + 64:
                return
            packed = file.read(size)
            if zlib.crc32(packed, zlib.crc32(head[_SUMMED:])) != checksum:
                return
            pixels = zlib.decompressobj().decompress(packed, whole + 1)
            yield step, np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
