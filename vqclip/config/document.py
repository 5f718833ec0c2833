"""Hostile text to plain values that remember where they stood: bounded YAML, command-line scalars, mappings.

Knows nothing of which keys exist. Builds no object from a tag, follows no alias, interpolates nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import category

import yaml

from vqclip.job import InputError, Prompt

MAX_BYTES = 65536
MAX_DEPTH = 32
MAX_NODES = 5000

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # both refuse the same texts; libyaml is 10 x faster
_KEPT = "\u200c\u200d"  # zero-width joiners: emoji and Persian need them
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "true": True, "false": False}
_NOT_FINITE = re.compile(r"[-+]?\.?(inf|nan)", re.IGNORECASE)  # numbers, so that the refusal can say "finite"


@dataclass(frozen=True)
class Node:
    """A value, the place it came from, and the text it was written as (scalars only).

    `value` is None, bool, int, float, str, a list of Nodes or a dict of key -> Node. `where` is
    "file:line" or the name of another source.
    """

    value: Any
    where: str
    text: str | None = None

    def refuse(self, key: str, allowed: str) -> InputError:
        """The one-line error for this value at `key`: where, what was given, what is allowed."""
        return InputError(f"{self.where}: {key}: got {show(self.value)}; {allowed}")


def show(value: Any) -> str:
    """A value as one short printable line for an error message."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and abs(value) > 10**40:
        return "a number of more than 40 digits"
    if value is None:
        return "nothing"
    text = repr(value) if isinstance(value, str) else str(value).lower()
    return text if len(text) <= 80 else text[:76] + " ..."


def scalar(text: str) -> Any:
    """A plain scalar as null, bool, int, float or text (YAML 1.2 core rules, decimal numbers only)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if len(text) <= 60 and (_FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text)):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def read(path: Path) -> str:
    """The text of a config file: a regular file of at most 64 KB in strict UTF-8.

    Raises:
        InputError: no such file, unreadable, too large or not UTF-8.
    """
    name = clean(str(path))
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{name}: not a file; a YAML file is needed")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the name
        if isinstance(problem, InputError):
            raise
        reason = problem.strerror if isinstance(problem, OSError) else "not a possible file name"
        raise InputError(f"{name}: cannot be read: {reason}") from problem
    if len(raw) > MAX_BYTES:
        raise InputError(f"{name}: larger than {MAX_BYTES} bytes; a config is a short YAML text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise InputError(f"{name}:{line}: not UTF-8; save the file as UTF-8") from problem


def clean(text: str) -> str:
    """The text on one line, whatever is in it: control characters are escaped, spaces and joiners of scripts kept."""
    return "".join(c if c.isprintable() or c in _KEPT or category(c) == "Zs" else ascii(c)[1:-1] for c in text)


def parse(text: str, source: str) -> Node:
    """Read one YAML document into Nodes, event by event, so that depth and size are bounded throughout.

    Raises:
        InputError: too large or deep, broken YAML, an anchor, alias, tag, duplicate or non-text key,
            a second document, or a top level that is not a mapping. An empty text is an empty mapping.
    """
    source = clean(source)
    root = _grow(text, source, lines=True)
    if root is None:
        return Node({}, f"{source}:1")
    if isinstance(root.value, dict):
        return root
    if root.text == "":
        return Node({}, root.where)
    given = show(root.value)
    raise InputError(f"{root.where}: the top level is {given}; `key: value` lines are needed")


def flow(text: str, where: str, *, records: bool = False) -> Node:
    """One list or mapping, written as JSON or YAML in a text at `where`; bounds and InputError as for `parse`.

    With `records` a JSON list may hold texts and mappings only: what else there is YAML reads, where 1 has a text too.
    """
    found = from_json(text, where, records=records)
    if found is None or not isinstance(found.value, list | dict):
        found = _grow(text, where, lines=False)
    return found or Node(None, where, "")


def _grow(text: str, source: str, *, lines: bool) -> Node | None:
    """The tree of one YAML document, None for an empty one; with `lines` each place is `source` and a line."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InputError(f"{source}: larger than {MAX_BYTES} bytes; a config is a short YAML text")
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(f"{source}{f':{row}' if lines else ''}: a NUL character; text is needed")
    tree = _Tree(source, lines=lines)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            tree.add(event)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f":{mark.line + 1}" if mark and lines else ""
        reason = getattr(problem, "problem", None) or getattr(problem, "reason", None) or "unreadable"
        raise InputError(f"{source}{line}: not valid YAML: {clean(str(reason))}") from problem
    except UnicodeEncodeError as problem:  # a lone surrogate on its way into libyaml
        raise InputError(f"{source}: not valid Unicode text") from problem
    return tree.root


class _Tree:
    """Grows Nodes from YAML events on a stack of its own: no recursion, however deep the text."""

    def __init__(self, source: str, *, lines: bool) -> None:
        self.source, self._lines = source, lines
        self.root: Node | None = None
        self._open: list[tuple[Node, list[Node]]] = []  # collection, the key that waits for its value
        self._count = 0
        self._documents = 0

    def add(self, event: Any) -> None:
        where = f"{self.source}:{event.start_mark.line + 1}" if self._lines else self.source
        self._check(event, where)
        match event:
            case yaml.MappingStartEvent():
                self._open.append((Node({}, where), []))
            case yaml.SequenceStartEvent():
                self._open.append((Node([], where), []))
            case yaml.CollectionEndEvent():
                self._place(self._open.pop()[0])
            case yaml.ScalarEvent():
                plain = event.implicit[0] and not event.style
                self._place(Node(scalar(event.value) if plain else event.value, where, event.value))
            case _:
                pass

    def _check(self, event: Any, where: str) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(f"{where}: anchors (&) and aliases (*) are not allowed; quotes make them text")
        if getattr(event, "tag", None):
            raise InputError(f"{where}: tags (!) are not allowed; quotes make them text")
        self._documents += isinstance(event, yaml.DocumentStartEvent)
        self._count += isinstance(event, yaml.NodeEvent)
        if self._documents > 1:
            raise InputError(f"{where}: a second document (---); one is allowed")
        if self._count > MAX_NODES or len(self._open) > MAX_DEPTH:
            raise InputError(f"{where}: more than {MAX_NODES} values or {MAX_DEPTH} levels deep")

    def _place(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        parent, waiting = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif waiting:
            key = waiting.pop()  # its line is the value's place too: a mapping's own begins a line later
            parent.value[key.text] = Node(node.value, key.where, node.text)
        elif node.text is None:
            raise InputError(f"{node.where}: {show(node.value)} as a key; keys are words")
        elif node.text in parent.value:
            raise InputError(f"{node.where}: key {show(node.text)} is given twice; once is allowed")
        else:
            waiting.append(node)


def plain(value: Any, where: str, *, depth: int = 0) -> Node:
    """An untrusted Python or JSON value as Nodes. Tuples are lists, a Prompt is the mapping of its fields.

    Raises:
        InputError: deeper than 32 levels, a key that is not text, or a value that is not plain.
    """
    if isinstance(value, Prompt):
        value = {"text": value.text, "weight": value.weight, "stop": value.stop}
    if depth > MAX_DEPTH:
        raise InputError(f"{where}: more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{where}: {clean(show(key))} as a key; keys are words")
        return Node({key: plain(each, where, depth=depth + 1) for key, each in value.items()}, where)
    if isinstance(value, list | tuple):
        return Node([plain(each, where, depth=depth + 1) for each in value], where)
    if value is None or isinstance(value, bool | int | float | str):
        return Node(value, where, value if isinstance(value, str) else None)
    kind = type(value).__name__
    raise InputError(f"{where}: a value of type {kind}; text, numbers, lists and mappings are allowed")


def from_json(text: str, where: str, *, records: bool = False) -> Node | None:
    """The text as JSON, or None if it is not JSON or, with `records`, a list of more than texts and mappings.

    Raises:
        InputError: JSON that repeats a key or nests deeper than 32 levels.
    """
    repeated: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            repeated.append(text)
        return made

    try:
        value = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError):  # ValueError: not JSON, or a number of thousands of digits
        return None
    if records and isinstance(value, list) and not all(isinstance(each, str | dict) for each in value):
        return None
    if repeated:
        raise InputError(f"{where}: a key is given twice in {show(text)}; once is allowed")
    return plain(value, where)
