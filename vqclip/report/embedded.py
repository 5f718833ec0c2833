"""Pictures and films of a run folder as data: URIs, so that a page is one file.

Believes no file name and no suffix: content decides. Knows nothing of numbers.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from vqclip import images
from vqclip.config.document import clean
from vqclip.job import InputError
from vqclip.report.evidence import read_bytes

MAX_PICTURE: Final = 64 << 20  # bytes
POSTER_SIDE: Final = 1024  # px; the picture itself stands beside its film
STRIP_SIDE: Final = 256  # px; larger frames are reduced for the strip


class Allowance:
    """Bytes that one page may still embed, counted before base64 adds a third."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, size: int) -> bool:
        """Whether `size` bytes still fit; they are counted only then."""
        if size > self.left:
            return False
        self.left -= size
        return True


@dataclass(frozen=True)
class Picture:
    """An embedded picture: a data: URI, its size in pixels, and what to call it."""

    uri: str
    width: int
    height: int
    label: str = ""


def picture(path: Path, allowance: Allowance) -> Picture | None:
    """A PNG as it is, texts inside included; None when there is none or `allowance` is used up.

    Raises InputError for a file that does not decode as PNG or has more than 64 MiB.
    """
    if not os.path.exists(path):
        return None
    width, height = images.read(path).size
    data = read_bytes(path, MAX_PICTURE)
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        raise InputError(f"{clean(str(path))}: not a PNG picture")
    return Picture(_uri("image/png", data), width, height) if allowance.take(len(data)) else None


def film(path: Path, allowance: Allowance) -> str | None:
    """The data: URI of an MP4; None when there is none, it is none, or `allowance` is used up."""
    try:
        if not path.is_file() or path.stat().st_size > allowance.left:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return _uri("video/mp4", data) if data[4:8] == b"ftyp" and allowance.take(len(data)) else None


def poster(path: Path, allowance: Allowance) -> str:
    """What a film shows before it plays: the data: URI of a picture file as JPEG; "" without one or `allowance`."""
    if not os.path.exists(path):
        return ""
    small = images.read(path)
    small.thumbnail((POSTER_SIDE, POSTER_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=92, subsampling=0)
    return _uri("image/jpeg", buffer.getvalue()) if allowance.take(buffer.tell()) else ""


def strip(folder: Path, count: int) -> list[Picture]:
    """Up to `count` kept frames of a run, evenly spaced from the first to the last, labelled by step."""
    kept = [path for path in (folder / "progress").glob("*.png") if path.stem.isascii() and path.stem.isdigit()]
    kept.sort(key=lambda path: int(path.stem))
    return [_reduced(kept[index]) for index in spread(len(kept), count)] if len(kept) > 1 else []


def spread(length: int, count: int) -> Sequence[int]:
    """At most `count` >= 2 indices out of `length`, evenly spaced, with the first and the last."""
    if length <= count:
        return range(length)
    return [round(number * (length - 1) / (count - 1)) for number in range(count)]


def _reduced(path: Path) -> Picture:
    small = images.read(path)
    small.thumbnail((STRIP_SIDE, STRIP_SIDE), Image.Resampling.LANCZOS)
    return Picture(_uri("image/png", images.to_png(small)), small.width, small.height, str(int(path.stem)))


def inside(folder: Path, name: str) -> Path:
    """The folder `name` below `folder`. Raises InputError for a name that leads out of it."""
    try:
        place = (folder / name).resolve()
        held = bool(name) and place != folder.resolve() and place.is_relative_to(folder.resolve())
        place.exists()  # refuses names that no file system takes
    except (OSError, ValueError, RuntimeError):  # a NUL, a name too long, links in a circle
        held = False
    if not held:
        raise InputError(f"{clean(str(folder))}: cell folder {clean(name[:200])!r} does not lie inside the comparison")
    return place


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
