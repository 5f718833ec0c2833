"""Texts inside animations: puts them into GIF and WebP, and finds them there and in MP4, decoding no picture.

Knows where a text lies, not what it means. The readers trust nothing that stands in a file.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image

KEY: Final = "vqclip"
PARAMETERS: Final = "parameters"
_DESCRIPTION, _EXIF_FOLDER, _COMMENT = 0x010E, 0x8769, 0x9286  # tags of EXIF
_LOOP: Final = b"\x21\xff\x0bNETSCAPE2.0"
_MAX_BOXES: Final = 10_000
_MAX_TEXT: Final = 2 << 20  # bytes; whoever parses the text refuses less
_HAS_EXIF: Final = 0x08  # of the flags of VP8X


def add(path: Path, texts: Mapping[str, str]) -> None:
    """Put `texts` into a GIF or WebP file: "vqclip", which is JSON, and "parameters" where there is room for it.

    GIF: the JSON as a comment. WebP: EXIF, the JSON as ImageDescription and `parameters` as UserComment. Both in
    ASCII with escapes, as these formats ask for. Raises OSError, and ValueError for a file of another kind.
    """
    description = json.dumps(json.loads(texts[KEY])).encode("ascii")
    with open(path, "r+b") as file:
        head = file.read(12)
        if head[:6] == b"GIF89a":
            _add_comment(path, file, description)
        elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
            _add_exif(path, file, description.decode("ascii"), texts.get(PARAMETERS, ""))
        else:
            raise ValueError(f"{path.name}: not a GIF or WebP")


def _add_comment(path: Path, file: BinaryIO, text: bytes) -> None:
    """Insert a comment ahead of the first picture, behind the block that makes the film loop."""
    file.seek(10)
    flags = file.read(1)[0]
    start = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)  # header, screen, colours
    file.seek(start)
    if file.read(len(_LOOP)) == _LOOP:
        start += len(_LOOP) + 5
    pieces = [text[at : at + 255] for at in range(0, len(text), 255)]
    block = b"\x21\xfe" + b"".join(bytes([len(piece)]) + piece for piece in pieces) + b"\0"
    longer = path.with_name(f"{path.name}.new")
    with open(longer, "xb") as output:
        file.seek(0)
        output.write(file.read(start) + block)
        shutil.copyfileobj(file, output, 1 << 20)
    os.replace(longer, path)


def _add_exif(path: Path, file: BinaryIO, description: str, parameters: str) -> None:
    """Append EXIF and say so in the extended header, which a file of one picture may lack."""
    exif = Image.Exif()
    exif[_DESCRIPTION] = description
    if parameters:
        exif.get_ifd(_EXIF_FOLDER)[_COMMENT] = b"UNICODE\0" + parameters.encode("utf-16-be", "replace")
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = b"EXIF" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    file.seek(12)
    if file.read(4) == b"VP8X":
        file.seek(20)
        flags = file.read(1)[0] | _HAS_EXIF
        file.seek(20)
        file.write(bytes([flags]))
    else:
        with Image.open(path, formats=("WEBP",)) as picture:
            sides = [side - 1 for side in picture.size]
        file.seek(12)
        rest = file.read()
        file.seek(12)
        extended = bytes([_HAS_EXIF, 0, 0, 0]) + b"".join(side.to_bytes(3, "little") for side in sides)
        file.write(b"VP8X" + struct.pack("<I", len(extended)) + extended + rest)
    file.seek(0, os.SEEK_END)
    file.write(chunk)
    length = file.tell() - 8
    file.seek(4)
    file.write(struct.pack("<I", length))


def find(path: Path, formats: tuple[str, ...] = ("PNG", "GIF", "WEBP")) -> str | None:
    """The "vqclip" text of a PNG, GIF, WebP or MP4; None when there is none.

    Raises whatever Pillow raises for a damaged picture, and OSError.
    """
    with open(path, "rb") as file:
        if file.read(8)[4:] == b"ftyp":
            return _mp4_comment(file)
    with Image.open(path, formats=formats) as picture:
        match picture.format:
            case "GIF":
                comment = picture.info.get("comment")
                return comment.decode(errors="replace") if isinstance(comment, bytes) else None
            case "WEBP":
                text = picture.getexif().get(_DESCRIPTION)
            case _:
                text = picture.info.get(KEY)
    return str(text) if isinstance(text, str) else None


def _mp4_comment(file: BinaryIO) -> str | None:
    """The comment of an MP4 where ffmpeg puts it: moov/udta/meta/ilst/(c)cmt/data."""
    start, end = 0, file.seek(0, os.SEEK_END)
    for name in (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data"):
        found = _box(file, start, end, name)
        if found is None:
            return None
        start, end = found
        start += 4 if name == b"meta" else 8 if name == b"data" else 0  # version and flags; type and language
    file.seek(start)
    return file.read(min(max(0, end - start), _MAX_TEXT)).decode(errors="replace")


def _box(file: BinaryIO, start: int, end: int, name: bytes) -> tuple[int, int] | None:
    """From where to where the inside of the first box `name` reaches, None when there is none."""
    for _ in range(_MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if len(head) < 8 or start + 8 > end:
            return None
        size, kind = struct.unpack(">I4s", head[:8])
        inside = start + 8
        if size == 1 and len(head) == 16:  # 64 bits follow
            size, inside = struct.unpack(">Q", head[8:])[0], start + 16
        stop = end if size == 0 else start + size
        if stop < inside or stop > end:
            return None
        if kind == name:
            return inside, stop
        start = stop
    return None
