"""The texts that a prompt has to beat before the judge: the prompt itself with one part of it swapped. No models."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Final

from vqclip.grammar import COLOURS, ENDS, PARTS, Caption, Part, Span, nouns, parse, plural, swap, with_article
from vqclip.starter import concepts

COUNT: Final = 100  # texts for one prompt; several share them
BOTH: Final = "both"  # the kind of rivals that swap colour and ground at once
WORD: Final = "word"  # and of those that swap what is no part
_FEW: Final = 10  # colours of the thing, grounds, and both at once
_DRAW: Final = 2026  # seed: the same question for every picture
# A right picture of the one may be one of the other as well, so neither is a rival of the other.
_KIN: Final[Mapping[str, frozenset[str]]] = {
    "bird": frozenset(["chicken", "duck", "eagle", "owl", "penguin", "rooster"]),
    "boat": frozenset(["canoe", "ship"]),
    "car": frozenset(["ambulance", "taxi"]),
    "fish": frozenset(["shark"]),
    "flower": frozenset(["bouquet", "rose", "sunflower", "tulip"]),
}

Rivals = Mapping[str, Sequence[str]]  # by what they swap: a part, BOTH or WORD


def rivals(text: str, *, count: int = COUNT) -> dict[str, list[str]]:
    """`count` texts of the same form as `text`, always the same ones, none of which means the same.

    Where the text names them, a tenth swap the thing's colour, a tenth the ground and a tenth both; the others swap the
    thing: "a red apple on white" is rivalled by "a blue apple on white", "a red apple on black", "a white apple on red"
    and "a red house on white". A text without a known thing keeps its form too: half of its rivals swap its first noun
    and half its last, for both were asked for ("a castle over Tokyo", "sunset over a castle"). One that names colours
    alone has only as many rivals as there are colours; one in which nothing can be swapped is rivalled by bare names.
    """
    caption, draw = parse(text), random.Random(_DRAW)  # noqa: S311  # no secret
    nameable = [caption.thing] if caption.thing else nouns(text)
    few = min(_FEW, count // 5) if nameable else _FEW
    colours, grounds = _others(caption, "colour", draw), _others(caption, "ground", draw)
    both = [(colour, ground) for colour in colours for ground in grounds if colour != ground]
    draw.shuffle(both)
    both.sort(key=lambda pair: pair != (caption.word("ground"), caption.word("colour")))  # exchanged ones first
    found = [("colour", caption.replaced(colour=word)) for word in colours[:few]]
    found += [("ground", caption.replaced(ground=word)) for word in grounds[:few]]
    room = few if nameable else count - len(found)
    found += [(BOTH, caption.replaced(colour=colour, ground=ground)) for colour, ground in both[:room]]
    names = _names(text, caption)
    for number, span in enumerate(nameable):
        room = (count - len(found)) // (len(nameable) - number)
        chosen = draw.sample(names, min(room, len(names)))
        found += [("thing" if number == 0 else WORD, _named(caption, span, name)) for name in chosen]
    if not found:
        found = [(WORD, with_article(name)) for name in draw.sample(names, min(count, len(names)))]
    kinds: dict[str, str] = {}
    for kind, each in found:
        if each != text:
            kinds.setdefault(each, kind)
    return {
        kind: [each for each, its in kinds.items() if its == kind]
        for kind in (*PARTS, BOTH, WORD) if kind in kinds.values()
    }  # fmt: skip


def grounded(text: str) -> list[str]:
    """A text that names a thing's colour and no ground on each ground that is not of that colour; else no texts."""
    caption = parse(text)
    if caption.ground or not caption.colour or (caption.thing is None and nouns(text)):
        return []
    return [f"{text} on {with_article(f'{word} background')}" for word in COLOURS if word != caption.word("colour")]


def _others(caption: Caption, part: Part, draw: random.Random) -> list[str]:
    """The colours that a part does not have, shuffled; none where it is not named."""
    said = caption.word(part)
    return draw.sample([colour for colour in COLOURS if colour != said], len(COLOURS) - 1) if said else []


def _names(text: str, caption: Caption) -> list[str]:
    """The names that no picture of the text can be asked by: none that it says, and none of their kin."""
    said = set(text.lower().replace("-", " ").split())
    thing = caption.word("thing") or ""
    near = {name for kind, kin in _KIN.items() for name in (kin if thing == kind else [kind] if thing in kin else [])}
    mine = said | near | set(thing.split())
    return sorted(
        name for name in concepts()
        if name not in near and not parse(text, [name]).thing and not mine & {*name.split(), *plural(name).split()}
    )  # fmt: skip


def _named(caption: Caption, span: Span, name: str) -> str:
    """The text with another thing, which takes an article where the noun follows a preposition ("over Tokyo")."""
    if caption.thing:
        return caption.replaced(thing=name)
    bare = caption.text[: span[0]].rstrip().rpartition(" ")[2].lower() in ENDS
    return swap(caption.text, span, with_article(name) if bare else name)
