"""One source of settings (a file, a mapping, an override) to checked values by key path. Merges nothing."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vqclip.document import Node, clean, from_json, scalar, show
from vqclip.job import InputError, Prompt
from vqclip.keys import Key
from vqclip.schema import Config, Guide, Picture, Reference, Variant, keys, leaves

_OVERRIDE = "override"
_PROMPT: dict[str, Key] = {
    "text": Key("text", str, "one", None, "the words"),
    "weight": Key("weight", float, "one", 1.0, "factor on the loss", low=0.0, high=1e6),
    "stop": Key("stop", float, "one", None, "distance of rest", optional=True, low=0.0, high=math.pi**2 / 2),
}
_MAX_LIST = 64
# Records that a text can stand for, and the field that the text then fills.
_SHORT = {Prompt: "text", Guide: "model", Reference: "image", Variant: "backend"}
_RECORDS = (*_SHORT, Picture)
# Control characters, lone surrogates, blank text, and what OmegaConf would not take literally: ${ and ???.
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|\$\{|^\?\?\?$|^\s*$")


@dataclass(frozen=True)
class Setting:
    """A checked value and where it was set."""

    value: Any
    where: str


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
            layer[entry.path] = Setting(read_value(value, entry, entry.path), value.where)
        else:
            layer |= read_layer(value, entry, f"{prefix}{name}.")
    return layer


def read_override(text: str) -> Layer:
    """Check one `key.sub=value` of the command line. Texts are taken raw, prompts included.

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
        return {entry.path: Setting(read_value(_override_node(raw, entry), entry, entry.path), _OVERRIDE)}
    return read_layer(from_json(raw, _OVERRIDE) or Node(raw, _OVERRIDE), section, prefix)


def _override_node(raw: str, key: Key) -> Node:
    whole = Node(raw, _OVERRIDE, raw)
    if key.kind in _RECORDS:
        return from_json(raw, _OVERRIDE, records=True) or (Node([whole], _OVERRIDE) if key.kind is Picture else whole)
    if key.shape == "one":
        return Node(raw if key.kind is str else scalar(raw), _OVERRIDE, raw)
    listed = from_json(raw, _OVERRIDE)
    if listed is not None and isinstance(listed.value, list):
        return listed
    parts = re.split("[x,]" if key.path == "size" else ",", raw)
    return Node([Node(part if key.kind is str else scalar(part), _OVERRIDE, part) for part in parts], _OVERRIDE)


def unknown(path: str, where: str, near: Iterable[str]) -> InputError:
    """The error for a key that is not in the schema, with the nearest name that is."""
    prefix, _, name = path[:200].rpartition(".")
    matches = difflib.get_close_matches(name[:40], list(near), n=1)
    hint = f"{prefix}.{matches[0]}" if matches and prefix else matches[0] if matches else ""
    if not hint:
        by_leaf = {key.path.rpartition(".")[2]: key.path for key in leaves()}
        matches = difflib.get_close_matches(name[:40], list(by_leaf), n=1)
        hint = by_leaf[matches[0]] if matches else ""
    tail = f"did you mean '{hint}'?" if hint else f"known here: {', '.join(near) or 'nothing below this key'}"
    return InputError(f"{where}: unknown key '{clean(path[:80])}'; {tail}")


def read_value(node: Node, key: Key, path: str) -> Any:
    """One leaf as the plain value that the schema's dataclass holds."""
    if key.optional and (node.value is None or node.value == "none"):
        return None
    if key.kind in _RECORDS:
        return _records(node, key, path)
    if key.shape == "one":
        return _one(node, key, path)
    if not isinstance(node.value, list) or len(node.value) > _MAX_LIST:
        raise node.refuse(path, key.wanted)
    if key.shape == "pair" and len(node.value) != 2:
        raise node.refuse(path, key.wanted)
    return [_one(each, key, f"{path}[{i}]") for i, each in enumerate(node.value)]


def _one(node: Node, key: Key, path: str) -> Any:
    wanted = key.wanted if path == key.path else key.element
    value = node.value
    if key.kind is str:
        if not read_text(node) or (key.pattern and not re.fullmatch(key.pattern, value)):
            raise node.refuse(path, wanted)
        if key.choices and value not in key.choices:
            close = difflib.get_close_matches(value[:40], key.choices, n=1)
            raise node.refuse(path, wanted + (f"; did you mean '{close[0]}'?" if close else ""))
        return value
    if key.kind is bool:
        fits = isinstance(value, bool)
    else:  # a float field takes whole numbers too; true and false are no numbers
        fits = isinstance(value, int if key.kind is int else int | float) and not isinstance(value, bool)
        fits = fits and key.low <= value <= key.high and key.above < value < key.below  # nan compares false
    if not fits:
        raise node.refuse(path, wanted)
    return key.kind(value)


def read_text(node: Node) -> bool:
    """Whether the node is a text usable as a name or path: one line, not blank, no `${`."""
    return isinstance(node.value, str) and len(node.value) <= 1000 and not _UNFIT.search(node.value)


def _records(node: Node, key: Key, path: str) -> tuple[Any, ...]:
    """A list of prompts, pictures, guides and the like; a single text stands for a list of one."""
    single = node.text is not None and key.kind is not Picture
    if single and node.text == "" and key.kind is Prompt and not key.nonempty and key.path != "include":
        return ()
    if not single and not isinstance(node.value, list):
        raise node.refuse(path, f"{'' if key.kind is Picture else 'a text or '}a list is needed")
    each = [(path, node)] if single else [(f"{path}[{i}]", item) for i, item in enumerate(node.value)]
    if key.nonempty and not each:
        raise node.refuse(path, "at least one is needed")
    if key.kind not in (Prompt, Picture) and len(each) > _MAX_LIST:
        raise node.refuse(path, f"at most {_MAX_LIST} are allowed")
    return tuple(_record(key.kind, item, place) for place, item in each)


def _record(kind: Any, node: Node, path: str) -> Any:
    if kind is Prompt:
        return _prompt(node, path)
    return _picture(node, path) if kind is Picture else _short(kind, node, path)


def _prompt(node: Node, path: str) -> Prompt:
    fields = {"text": node} if node.text is not None else _fields(node, path, _PROMPT)
    words = fields.get("text")
    if words is None or words.text is None:
        raise (words or node).refuse(path, "a text, or {text, weight, stop}, is needed")
    if not words.text.strip():
        raise InputError(f"{words.where}: {path}: the prompt is empty; some words are needed")
    if re.search("[\0\ud800-\udfff]", words.text):
        raise InputError(f"{words.where}: {path}: NUL or a lone surrogate in {show(words.text)}; text is needed")
    numbers = {name: each for name, each in fields.items() if name != "text"}
    return Prompt(
        words.text,
        **{name: read_value(each, _PROMPT[name], f"{path}.{name}") for name, each in numbers.items()},
    )


def _picture(node: Node, path: str) -> Picture:
    if node.text is not None:
        return Picture(include=(_prompt(node, path),))
    known = {name: key for name, key in keys(Picture).items() if isinstance(key, Key)}
    fields = _fields(node, path, known)
    values = {name: read_value(each, known[name], f"{path}.{name}") for name, each in fields.items()}
    if "include" not in values:
        raise InputError(f"{node.where}: {path}: no include prompt; each picture needs one")
    return Picture(**values)


def _short(kind: Any, node: Node, path: str) -> Any:
    """A guide, reference or variant: a mapping of its fields, or the text that fills its first one."""
    known = {name: key for name, key in keys(kind).items() if isinstance(key, Key)}
    fields = {_SHORT[kind]: node} if node.text is not None else _fields(node, path, known)
    if known[_SHORT[kind]].nonempty and _SHORT[kind] not in fields:
        raise InputError(f"{node.where}: {path}: no {_SHORT[kind]}; each needs one")
    values = {name: read_value(each, known[name], f"{path}.{name}") for name, each in fields.items()}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _fields(node: Node, path: str, known: dict[str, Key]) -> dict[str, Node]:
    if not isinstance(node.value, dict):
        raise node.refuse(path, f"a text, or a mapping of {', '.join(known)}, is needed")
    for name, each in node.value.items():
        if name not in known:
            raise unknown(f"{path}.{name}", each.where, known)
    found: dict[str, Node] = node.value
    return found
