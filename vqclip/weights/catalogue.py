"""The published weights that can be fetched by name: reads and checks catalogue.yaml. Opens no connection."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal, cast
from urllib.parse import urlsplit

import yaml

from vqclip.job import InputError

Kind = Literal["vqgan", "clip", "open_clip"]
KINDS: tuple[Kind, ...] = ("vqgan", "clip", "open_clip")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/-]{0,79}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ABOUT = re.compile(r"(\d+(?:\.\d+)?) ([MG]B)")
_UNITS = {"MB": 10**6, "GB": 10**9}
_LARGEST = 5 * 10**9  # bytes; the largest file of the catalogue has 4.3e9
_NEEDED = {"name", "kind", "file", "urls", "licence", "note"}
_KNOWN = _NEEDED | {"size", "sha256", "member", "extra"}


@dataclass(frozen=True)
class Entry:
    """One published file.

    `size` in bytes and `sha256` (64 lower-case hex digits) are of the file as published, None where not
    known: the hash is then pinned on first use. `urls` are https addresses of the same bytes, the best
    first. `member` names the file inside a zip that holds the weights. `extra` holds texts that some
    kinds need: `about` (a size for people), and for open_clip `model`, `tag`, `hub` and `hub_file`.
    """

    name: str
    kind: Kind
    file: str
    size: int | None
    sha256: str | None
    urls: tuple[str, ...]
    licence: str
    note: str
    member: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def about(self) -> str:
        """The size for people: "354 MB", "1.4 GB", or "?"."""
        return for_people(self.size) if self.size is not None else self.extra.get("about", "?")

    @property
    def most(self) -> int:
        """Bytes that a server may send: the size, else twice what it is said to be about, else 5 GB."""
        if self.size is not None:
            return self.size
        about = _ABOUT.fullmatch(self.about)
        return 2 * round(float(about[1]) * _UNITS[about[2]]) if about else _LARGEST


def for_people(size: int) -> str:
    """A number of bytes in decimal units, as file managers and web pages give it."""
    if size >= 10**9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB" if size >= 10**6 else f"{size} bytes"


@cache
def entries() -> Mapping[str, Entry]:
    """Every entry by name, in the order of the file."""
    return parse(resources.files("vqclip.weights").joinpath("catalogue.yaml").read_text("utf-8"))


def entry(name: str) -> Entry:
    """The entry of that name; case and punctuation do not matter ("vit-b-32" is "ViT-B/32").

    Raises:
        InputError: no such name; the nearest ones are offered.
    """
    known = entries()
    if name in known:
        return known[name]
    plain = {_plain(each): each for each in known}
    if _plain(name) in plain:
        return known[plain[_plain(name)]]
    near = [plain[each] for each in difflib.get_close_matches(_plain(name[:100]), list(plain), n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else "`vqclip models list` shows all names"
    raise InputError(f"there is no model {name[:80]!r}; {hint}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def parse(text: str) -> Mapping[str, Entry]:
    """The entries of a catalogue's text, all checked.

    Raises:
        ValueError: which entry breaks which rule. That is a fault of the file, never of a user.
    """
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or set(document) != {"models"} or not isinstance(document["models"], list):
        raise ValueError("the catalogue is not a mapping with one list, `models`")
    found: dict[str, Entry] = {}
    for number, row in enumerate(document["models"], start=1):
        made = _entry(row, f"entry {number}")
        if _plain(made.name) in {_plain(name) for name in found}:
            raise ValueError(f"entry {number}: the name {made.name} is taken")
        if made.file.lower() in {each.file.lower() for each in found.values()}:
            raise ValueError(f"entry {number}: the file {made.file} is taken")
        found[made.name] = made
    return MappingProxyType(found)


def _entry(row: Any, where: str) -> Entry:
    if not isinstance(row, dict) or not row.keys() >= _NEEDED or not row.keys() <= _KNOWN:
        raise ValueError(f"{where}: needs {sorted(_NEEDED)}, may have {sorted(_KNOWN - _NEEDED)}, got {row}")
    texts = {key: row[key] for key in ("name", "kind", "file", "licence", "note", "member", "sha256") if key in row}
    for key, value in texts.items():
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise ValueError(f"{where}: {key} is {value!r}; one line of text is needed")
    for key, pattern in (("name", _NAME), ("file", _FILE), ("member", _FILE), ("sha256", _SHA256)):
        if key in texts and not pattern.fullmatch(texts[key]):
            raise ValueError(f"{where}: {key} is {texts[key]!r}; it must match {pattern.pattern}")
    if texts["kind"] not in KINDS:
        raise ValueError(f"{where}: kind is {texts['kind']!r}; one of {', '.join(KINDS)} is needed")
    extra = row.get("extra", {})
    if not isinstance(extra, dict) or not all(isinstance(each, str) for pair in extra.items() for each in pair):
        raise ValueError(f"{where}: extra is {extra!r}; a mapping of texts is needed")
    return Entry(
        name=texts["name"],
        kind=cast(Kind, texts["kind"]),
        file=texts["file"],
        size=_size(row.get("size"), where),
        sha256=texts.get("sha256"),
        urls=_urls(row["urls"], where),
        licence=texts["licence"],
        note=texts["note"],
        member=texts.get("member"),
        extra=MappingProxyType(extra),
    )


def _size(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{where}: size is {value!r}; a positive number of bytes is needed")
    return value


def _urls(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{where}: urls is {value!r}; a list of addresses is needed")
    for each in value:
        parts = urlsplit(each)
        if parts.scheme != "https" or not parts.hostname or parts.username or not each.isascii() or " " in each:
            raise ValueError(f"{where}: {each!r} is not an https address")
    if len(set(value)) < len(value):
        raise ValueError(f"{where}: an address is given twice")
    return tuple(value)
