"""One node to the checked value of its key: numbers and texts, prompts in all their forms, other records."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

from vqclip.config.document import Node, clean, flow, scalar, show
from vqclip.config.keys import Key
from vqclip.config.schema import MAX_PROMPTS, Guide, Picture, Reference, Variant, keys, leaves
from vqclip.config.shorthand import Part, is_bracketed, split
from vqclip.job import InputError, Prompt

_PROMPT: dict[str, Key] = {
    "text": Key("text", str, "one", None, "the words"),
    "weight": Key("weight", float, "one", 1.0, "factor on the loss", low=0.0, high=1e6),
    "stop": Key("stop", float, "one", None, "distance of rest", optional=True, low=0.0, high=math.pi**2 / 2),
}
_MAX_LIST = 64
# Records that a text can stand for, and the field that the text then fills.
SHORT = {Prompt: "text", Guide: "model", Reference: "image", Variant: "backend"}
RECORDS = (*SHORT, Picture)
# What is shown for a text that only begins like a list.
EXAMPLES = {
    Prompt: "[a red apple, a heart], {text: a red apple, weight: 2}, or {text: '[as it is'}",
    Picture: "[a red apple, {include: a heart, seed: 3}]",
    Guide: "[first, {model: second, weight: 2}]",
    Reference: "[first.png, {image: second.png, weight: 2}]",
    Variant: "[vqgan, {backend: kandinsky, set: [size=64x64]}]",
}
# Control characters, lone surrogates, blank text, and what OmegaConf would not take literally: ${ and ???.
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|\$\{|^\?\?\?$|^\s*$")


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
    """One leaf as the plain value that the schema's dataclass holds; InputError for another kind or out of range."""
    if key.optional and (node.value is None or node.value == "none"):
        return None
    if key.kind in RECORDS:
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
    """A list of prompts, pictures, guides and the like; one text or mapping stands for a list of one."""
    if key.kind is Prompt:
        return _prompts(node, key, path)
    each = _entries(node, key, path)
    if key.kind is not Picture and len(each) > _MAX_LIST:
        raise node.refuse(path, f"at most {_MAX_LIST} are allowed")
    read = _picture if key.kind is Picture else _short
    return tuple(read(key.kind, item, place) for place, item in each)


def _entries(node: Node, key: Key, path: str) -> list[tuple[str, Node]]:
    """The entries of a list with their paths."""
    single = key.kind is not Picture and (node.text is not None or isinstance(node.value, dict))
    if not single and not isinstance(node.value, list):
        raise node.refuse(path, f"{'' if key.kind is Picture else 'a text or '}a list is needed")
    each = [(path, node)] if single else [(f"{path}[{i}]", item) for i, item in enumerate(node.value)]
    if key.nonempty and not each:
        raise node.refuse(path, "at least one is needed")
    return each


def _prompts(node: Node, key: Key, path: str) -> tuple[Prompt, ...]:
    """Prompts in all their forms. A text alone may hold a whole list, and any text the short forms of `shorthand`."""
    if node.text == "" and not key.nonempty and key.path != "include":
        return ()
    if isinstance(node.text, str) and is_bracketed(node.text):
        node = opened(node, path, EXAMPLES[Prompt])
    return tuple(prompt for place, item in _entries(node, key, path) for prompt in _said(item, place))


def _said(node: Node, path: str) -> list[Prompt]:
    """The prompts of one entry: a mapping is taken as it is, a text may be several."""
    parts = split(node.text) if node.text is not None else []
    if len(parts) > MAX_PROMPTS:
        raise node.refuse(path, f"at most {MAX_PROMPTS} texts are allowed")
    if len(parts) > 1 and any(not part.text for part in parts):
        raise node.refuse(path, "some words are needed on each side of |; as a mapping, {text: ...}, it is a text")
    if not parts or parts == [Part(str(node.text))]:
        return [_prompt(node, path)]
    places = [path] if len(parts) == 1 else [f"{path}[{i}]" for i in range(len(parts))]
    return [_prompt(_spelled(part, node.where), place) for part, place in zip(parts, places, strict=True)]


def _spelled(part: Part, where: str) -> Node:
    """A short form as the mapping that it stands for."""
    numbers = {name: text for name, text in (("weight", part.weight), ("stop", part.stop)) if text is not None}
    fields = {name: Node(scalar(text), where, text) for name, text in numbers.items()}
    return Node({"text": Node(part.text, where, part.text), **fields}, where)


def _prompt(node: Node, path: str) -> Prompt:
    fields = {"text": node} if node.text is not None else _fields(node, path, _PROMPT)
    words = fields.get("text")
    if words is None or words.text is None:
        raise (words or node).refuse(path, "a text, or {text, weight, stop}, is needed")
    if not words.text.strip():
        raise InputError(f"{words.where}: {path}: the prompt is empty; some words are needed")
    if re.search("[\0\ud800-\udfff]", words.text):
        raise InputError(f"{words.where}: {path}: NUL or a lone surrogate in {show(words.text)}; text is needed")
    weight = fields.get("weight")
    if weight is not None and isinstance(weight.value, int | float) and weight.value < 0:
        wanted = _PROMPT["weight"].wanted
        raise weight.refuse(f"{path}.weight", f"{wanted}; what the picture must not show goes into exclude")
    numbers = {name: each for name, each in fields.items() if name != "text"}
    return Prompt(
        words.text,
        **{name: read_value(each, _PROMPT[name], f"{path}.{name}") for name, each in numbers.items()},
    )


def _picture(_kind: Any, node: Node, path: str) -> Picture:
    known = {name: key for name, key in keys(Picture).items() if isinstance(key, Key)}
    if node.text is not None:
        return Picture(include=_prompts(node, known["include"], path))
    fields = _fields(node, path, known)
    values = {name: read_value(each, known[name], f"{path}.{name}") for name, each in fields.items()}
    if "include" not in values:
        raise InputError(f"{node.where}: {path}: no include prompt; each picture needs one")
    return Picture(**values)


def _short(kind: Any, node: Node, path: str) -> Any:
    """A guide, reference or variant: a mapping of its fields, or the text that fills its first one."""
    known = {name: key for name, key in keys(kind).items() if isinstance(key, Key)}
    fields = {SHORT[kind]: node} if node.text is not None else _fields(node, path, known)
    if known[SHORT[kind]].nonempty and SHORT[kind] not in fields:
        raise InputError(f"{node.where}: {path}: no {SHORT[kind]}; each needs one")
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

def opened(node: Node, path: str, example: str) -> Node:
    """The list or mapping that a text holds; InputError, with the right form, for one that only begins like it."""
    try:
        return flow(str(node.text), node.where, records=True)
    except InputError as problem:
        said = str(problem).removeprefix(f"{node.where}: ")
        raise InputError(
            f"{node.where}: {path}: {show(node.text)} begins like a list or a mapping and is none ({said}); "
            f"the form is {example}"
        ) from problem
