"""Opens files that have an end, and those alone: a pipe, a device, a socket could be read or waited for without end."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_NOWAIT = getattr(os, "O_NONBLOCK", 0)  # opening a pipe waits for a writer; for a file it means nothing


def opened(path: Path) -> BufferedReader:
    """A regular file, also behind links, open for reading.

    Raises:
        OSError: no such file, or not a regular one; `strerror` says which in words.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NOWAIT))  # noqa: SIM115  # the caller's
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # of what was opened: a path may change its meaning
        return file
    file.close()
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def check(folder: Path) -> None:
    """Raise OSError where something in a folder is neither a regular file nor a folder; what is deeper is not seen."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError(errno.EINVAL, "not a regular file", str(path))
