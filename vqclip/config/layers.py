"""One source of settings (a file, a mapping, an override) to checked values by key path. Merges nothing."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vqclip.config.document import Node, clean, from_json, scalar, show
from vqclip.config.keys import Key
from vqclip.config.paths import resolve
from vqclip.config.schema import Config, Guide, Picture, Reference, Variant, keys, leaves
from vqclip.config.shorthand import is_bracketed
from vqclip.config.values import EXAMPLES, RECORDS, SHORT, opened, read_text, read_value, unknown
from vqclip.job import InputError, Prompt

_OVERRIDE = "override"


@dataclass(frozen=True)
class Setting:
    """A checked value and where it was set; of a list of guides, pictures or variants also where each of them was."""

    value: Any
    where: str
    each: tuple[str, ...] = ()


Layer = dict[str, Setting]


def read_layer(node: Node, section: Any = Config, prefix: str = "") -> Layer:
    """Check every value of a mapping against the schema; the result maps full key paths to settings.

    Raises:
        InputError: an unknown key, a wrong type or a value out of range, with its place and key.
    """
    if not isinstance(node.value, dict):
        raise node.refuse(prefix.rstrip("."), "a mapping of settings is needed")
    known = keys(section, prefix)
    layer: Layer = {}
    for name, value in node.value.items():
        entry = known.get(name)
        if entry is None:
            raise unknown(f"{prefix}{name}", value.where, known)
        if isinstance(entry, Key):
            layer[entry.path] = _setting(value, entry)
        else:
            layer |= read_layer(value, entry, f"{prefix}{name}.")
    return layer


def _setting(node: Node, key: Key) -> Setting:
    listed = key.kind in SHORT and key.kind is not Prompt and isinstance(node.value, list)
    each = tuple(item.where for item in node.value) if listed else ()
    return Setting(read_value(node, key, key.path), node.where, each)


def read_override(text: str) -> Layer:
    """Check one `key.sub=value` of the command line. Texts are taken raw, but for lists and mappings in brackets.

    Raises:
        InputError: no `=`, an unknown key, or a value that does not fit.
    """
    name, mark, raw = text.partition("=")
    if not mark:
        raise InputError(f"{clean(text[:200])}: neither a config file that exists nor key=value")
    section: Any = Config
    prefix = ""
    for part in name.split("."):
        known = keys(section, prefix) if section else {}
        entry = known.get(part)
        if entry is None:
            raise unknown(name, _OVERRIDE, known)
        section, prefix = (None, "") if isinstance(entry, Key) else (entry, f"{prefix}{part}.")
    if isinstance(entry, Key):
        return {entry.path: _setting(_override_node(raw, entry), entry)}
    if is_bracketed(raw):
        return read_layer(opened(Node(raw, _OVERRIDE, raw), name, f"{{{next(iter(known))}: ...}}"), section, prefix)
    return read_layer(from_json(raw, _OVERRIDE) or Node(raw, _OVERRIDE), section, prefix)


def _override_node(raw: str, key: Key) -> Node:
    whole = Node(raw, _OVERRIDE, raw)
    if key.shape == "one":
        return Node(raw if key.kind is str else scalar(raw), _OVERRIDE, raw)
    if key.kind is Prompt:
        return whole  # opened where it is read, as in a file
    if is_bracketed(raw):
        found = opened(whole, key.path, EXAMPLES.get(key.kind, "[first, second]"))
        return found if key.kind is not Picture or isinstance(found.value, list) else Node([found], _OVERRIDE)
    if key.kind is Picture:
        return Node([whole], _OVERRIDE)
    if key.kind in RECORDS and key.kind is not Variant:  # a path may have a comma
        return whole
    parts = re.split("[x,]" if key.path == "size" else ",", raw)
    return Node([Node(part if key.kind is str else scalar(part), _OVERRIDE, part) for part in parts], _OVERRIDE)


def located(layer: Layer, folder: Path) -> Layer:
    """The layer with every path in it made absolute, as seen from the folder of the file that names it.

    Raises:
        InputError: a path that no config can hold.
    """
    known = {key.path: key for key in leaves()}
    return {path: _located(setting, known[path], folder) for path, setting in layer.items()}


def _located(setting: Setting, key: Key, folder: Path) -> Setting:
    place = f"{setting.where}: {key.path}"
    if key.kind is Variant:
        own = [tuple(text for given in each.set for text in _moved(given, folder)) for each in setting.value]
        moved = [replace(each, set=texts) for each, texts in zip(setting.value, own, strict=True)]
        return replace(setting, value=tuple(moved))
    if key.kind in (Guide, Reference):
        name = SHORT[key.kind]
        kind = {leaf.path: leaf.file for leaf in leaves(key.kind)}[name]
        moved = [replace(each, **{name: _absolute(getattr(each, name), folder, kind, place)}) for each in setting.value]
        return replace(setting, value=tuple(moved))
    if not key.file or setting.value in (None, "none", "auto"):
        return setting
    return replace(setting, value=_absolute(setting.value, folder, key.file, place))


def _absolute(value: str, folder: Path, kind: str, place: str) -> str:
    path = resolve(value, folder, kind)
    if path != value and not read_text(Node(path, "")):
        raise InputError(f"{place}: {show(path)} is no path that a config can hold; a shorter, plain one is needed")
    return path


def _moved(text: str, folder: Path) -> list[str]:
    """A variant's own setting, written as on the command line, with its paths made absolute."""
    try:
        given = read_override(text)
    except InputError:  # said where the variant is used
        return [text]
    moved = located(given, folder)
    return [text] if moved == given else [f"{path}={written(each.value)}" for path, each in moved.items()]


def written(value: Any) -> str:
    """A value of a setting as it would stand behind the `=` of an override."""
    if isinstance(value, str) or value is None:
        return value or "none"
    records = isinstance(value, tuple)
    return json.dumps([asdict(each) for each in value] if records else value)
