"""Claims run folders and replaces the files in them whole or not at all.

Does not know what a run is: the caller brings the words and the hash for the name.
"""

from __future__ import annotations

import errno
import json
import re
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vqclip.images import replace_file
from vqclip.job import InputError, ResourceError

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # files under these are lost on Windows
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE}
_SLUG = 40  # characters


def slug(text: str) -> str:
    """`text` as at most 40 lower-case ASCII letters, digits and single dashes; never empty.

    Accents are dropped with their letters kept; scripts without ASCII letters leave "picture".
    """
    ascii_text = unicodedata.normalize("NFKD", text[:1000]).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")
    if len(words) > _SLUG:
        cut = words[: _SLUG + 1].rfind("-")
        words = words[: cut if cut > _SLUG // 2 else _SLUG].strip("-")
    return words or "picture"


def claim(outputs: Path, *, name: str | None, slug_from: str, digest: str) -> Path:
    """Make a new folder under `outputs` that nobody else has, and return it.

    Without a name it is `<UTC %Y%m%dT%H%M%SZ>-<slug>-<first 6 characters of digest>`, with -2, -3, ...
    when that exists: mkdir is atomic, so that two runs never share a folder. An explicit name that
    exists is refused. Raises InputError for a bad or taken name and for an `outputs` that cannot hold
    folders, ResourceError for a full disk.
    """
    if name is not None and (not _NAME.fullmatch(name) or name.endswith(".") or _DEVICES.fullmatch(name)):
        raise InputError(f"name: {name!r}; 1 to 80 letters, digits, '.', '_' or '-', no dot at either end")
    _mkdir(outputs, existing=True)
    if name is not None:
        if not _mkdir(outputs / name):
            raise InputError(f"name: {outputs / name} exists; choose another name, runs are never overwritten")
        return outputs / name
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    stem = f"{stamp}-{slug(slug_from)}-{slug(digest)[:6]}"
    number = 1
    while not _mkdir(place := outputs / (stem if number == 1 else f"{stem}-{number}")):
        number += 1
    return place


def _mkdir(place: Path, *, existing: bool = False) -> bool:
    """Make a folder; False when the name is taken. With `existing`, parents too and a folder may be there."""
    try:
        place.mkdir(parents=existing, exist_ok=existing)
    except FileExistsError as error:
        if existing:
            raise InputError(f"outputs: {place} is not a folder") from error
        return False
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceError(f"{place}: {error.strerror}; free some space and run again") from error
        raise InputError(f"outputs: {place} cannot be made ({error.strerror})") from error
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file atomically and durably. Raises ResourceError with the reason of the system."""
    try:
        replace_file(path, data)
    except OSError as error:
        raise ResourceError(f"{path} cannot be written ({error.strerror or error})") from error


def write_text(path: Path, text: str) -> None:
    """Replace a file by `text` as UTF-8, line ends untouched. Raises ResourceError."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace a file by `value` as indented JSON. Raises ResourceError; ValueError for NaN and Inf."""
    write_bytes(path, (to_json(value, indent=2) + "\n").encode())


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that keeps letters readable and is always encodable: half surrogate pairs stay escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", "backslashreplace").decode()  # U+D800 -> \ud800, which JSON reads back
