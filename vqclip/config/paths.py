"""One rule for paths: in a file they are relative to it, on the command line and in Python to the current folder.

Tells paths from names of models. Opens no file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".zip")
OPEN_CLIP = "open_clip:"
PIN = "#sha256="  # behind the path of a weight file: the hash that it must have
_PINNED = re.compile(rf"(.*){PIN}([^/]*)", re.DOTALL)


def unpinned(name: str) -> tuple[str, str]:
    """A name without its pin, and what stands in the pin; "" without one."""
    found = _PINNED.fullmatch(name)
    return (found[1], found[2]) if found else (name, "")


def is_path(name: str) -> bool:
    """Whether the name of a weight file can only be a path, whether or not something is there."""
    name, _ = unpinned(name)
    return name.startswith((".", "/", "~")) or Path(name).suffix.lower() in SUFFIXES or Path(name).is_absolute()


def resolve(value: str, folder: Path, kind: str) -> str:
    """The value with the path in it, if there is one, made absolute as seen from `folder`.

    Args:
        value: as it was written.
        folder: absolute; a path in `value` is relative to it.
        kind: "file" is always a path; "weights" may be a name of the catalogue or "open_clip:MODEL:PATH" instead,
            "pipeline" a repository of the hub; the names of starter models stay too. A pin stays where it is.
    """
    if kind != "file" and PIN in value:
        plain, pin = unpinned(value)
        return f"{resolve(plain, folder, kind)}{PIN}{pin}"
    if value == "starter" or value.startswith("starter/"):
        return value
    there = Path(os.path.abspath(folder / os.path.expanduser(value)))
    if kind == "weights" and value.startswith(OPEN_CLIP):
        head, mark, tail = value.removeprefix(OPEN_CLIP).partition(":")
        return f"{OPEN_CLIP}{head}{mark}{resolve(tail, folder, kind)}" if tail else value
    if kind == "weights":
        named = not is_path(value) and not there.is_file()
    elif kind == "pipeline":  # as `owner/name` or one known word; a folder that is there comes first
        named = not value.startswith((".", "/", "~")) and value.count("/") <= 1 and not there.is_dir()
        named = named and not ("/" in value and there.parent.is_dir())
    else:
        named = False
    return value if named else str(there)
