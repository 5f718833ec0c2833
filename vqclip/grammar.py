"""Reads a prompt's parts, the thing, its colour and the ground, and puts other words in their places. No models.

Rules for the plain English of captions ("a red apple on a white background"); what they do not find is no part.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from vqclip.starter import concepts

Part = Literal["thing", "colour", "ground"]
Span = tuple[int, int]  # begin and end, as of a slice

PARTS: Final[tuple[Part, ...]] = ("thing", "colour", "ground")
# The basic colour terms of English (Berlin and Kay, 1969); "gray" is read as "grey".
COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")

_WORD: Final = r"(?<![\w-]){}(?![\w'\u2019-])"  # whole, and no half of "blue-eyed"
_FRUIT: Final = r"(?!(?<=\ban )orange(?= *(?:$|[,.;:!?]|(?:on|in|and|with|at|over|beside) )))"  # "an orange on a plate"
_COLOUR: Final = _FRUIT + _WORD.format(rf"(?:{'|'.join(COLOURS)}|gray)")
_GROUNDS: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"({_COLOUR})(?: colou?red)? (?:background|backdrop|ground)\b",
        rf"\bbackground (?:that is |which is |is |in )({_COLOUR})",
        rf"\b(?:on|over|against|in front of) (?:an? |the |plain |pure |solid )*({_COLOUR})(?= *(?:$|[,.;:!?)]))",
    )
)
_BARE: Final = re.compile(
    rf"(?:(?:the|an?) )?(?:something |anything |colou?r )?({_COLOUR})(?: (?:colou?r|things?))?", re.IGNORECASE
)
_AFTER: Final = re.compile(rf",? (?:that is |which is |is |colou?red |in )({_COLOUR})(?! *\w)", re.IGNORECASE)
# A phrase around a noun ends where one of these words stands, or a sign.
ENDS: Final = frozenset(
    re.findall(
        r"\w+",
        "of on in at by with without from to for over under behind before beside between near against into onto "
        "through above below around across inside outside during front and or but that which who is are was were has "
        "have as like while wearing",
    )
)
_SMALL: Final = ENDS | frozenset(
    re.findall(
        r"\w+",
        "a an the this that these those some any no my your its his her their very something anything "
        "background backdrop",
    )
)
# What a caption says of itself, not of what it shows: "a drawing of ...".
_FRAME: Final = re.compile(
    r"^(?:[\w'\u2019-]+ )*?(?:drawing|picture|icon|image|photo|photograph|painting|sketch|portrait|illustration|"
    r"render(?:ing)?|emoji|logo|poster|close-?up|view|scene) of ",
    re.IGNORECASE,
)
_MASS: Final = frozenset(["bread", "fire", "corn", "milk", "tea", "beer", "coffee", "sushi"])  # "milk", not "a milk"
_IRREGULAR: Final[Mapping[str, str]] = {"mouse": "mice", "fish": "fish", "deer": "deer", "shrimp": "shrimp"}


@dataclass(frozen=True)
class Caption:
    """A prompt and where its parts stand, None for a part that it does not name.

    `colour` is the thing's; in a text without a known thing it is the first colour that is not the ground's.
    `names` are the things that were looked for.
    """

    text: str
    thing: Span | None = None
    colour: Span | None = None
    ground: Span | None = None
    names: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that the text names."""
        return tuple(part for part in PARTS if getattr(self, part))

    def word(self, part: Part) -> str | None:
        """The name of a part as the lists have it ("Apples" is "apple", "gray" is "grey"), None for no part."""
        span: Span | None = getattr(self, part)
        if span is None:
            return None
        said = self.text[slice(*span)].lower()
        if part != "thing":
            return said.replace("gray", "grey")
        return next((name for name in self.names if said in (name, plural(name))), said)

    def replaced(self, **words: str) -> str:
        """The text with other words for some of its parts: `replaced(thing="house", colour="blue")`.

        Articles are mended ("an orange apple", "a red apple"; "a red apple", "red grapes"); a name stands in the
        plural where the one that it replaces did. ValueError for a part that the text does not name.
        """
        spans = {part: getattr(self, part) for part in words}
        if missing := [part for part, span in spans.items() if span is None]:
            raise ValueError(f"{self.text!r} names no {missing[0]}")
        text, moved = self.text, 0
        for part, span in sorted(spans.items(), key=lambda item: (item[0] == "thing", -item[1][0])):  # the thing last:
            before = len(text)  # its article may stand before the colour
            many = part == "thing" and _is_plural(self.text[slice(*span)], self.names)
            word = plural(words[part]) if many else words[part]
            text = swap(text, _shift(span, moved if part == "thing" else 0), word, thing=part == "thing")
            moved += len(text) - before if "thing" in spans and span < spans["thing"] else 0
        return text


def parse(text: str, names: Sequence[str] | None = None) -> Caption:
    """The parts of a prompt.

    The thing is the first of `names` that the text says, in the singular or the plural, the longest where several
    begin at one place, and the last of names in a row ("apple tree" is a tree). `names`: `concepts()` by default.
    """
    known = tuple(concepts() if names is None else names)
    grounds = [match for pattern in _GROUNDS if (match := pattern.search(text))]
    ground = min(match.span(1) for match in grounds) if grounds else None
    thing = _thing(text, known)
    colours = [match.span() for match in re.finditer(_COLOUR, text, re.IGNORECASE)]
    free = [span for span in colours if span != ground and (thing is None or not _touch(span, thing))]
    if thing is None:
        return Caption(text, None, free[0] if free else None, ground, known)
    start = _phrase(text, thing[0])
    before = [span for span in free if start <= span[0] < thing[0]]
    after = _AFTER.match(text[thing[1] :])
    colour = before[-1] if before else _shift(after.span(1), thing[1]) if after else None
    return Caption(text, thing, colour if colour != ground else None, ground, known)


def is_colour(text: str) -> bool:
    """Whether a text is a colour and nothing else: "yellow", "the colour red", "something blue", not "an orange"."""
    found = _BARE.fullmatch(" ".join(text.split()).rstrip(".!"))
    return found is not None


def nouns(text: str) -> list[Span]:
    """Where the words stand that a text without a known name is about: the heads of its first and of its last phrase.

    "a wide sunset over old Tokyo, oil on canvas" gives "sunset" and "Tokyo": what follows the first comma says how.
    One span where both are the same word, none in a text without words of Latin letters.
    """
    begin = match.end() if (match := _FRAME.match(text)) else 0
    phrases: list[Span | None] = [None]
    for word in re.finditer(r"[^\W\d_][\w'\u2019-]*", re.split(r"(?<=.)[,.;:!?]", text[begin:])[0]):
        said, span = word[0].lower(), _shift(word.span(), begin)
        if said in ENDS or said.endswith("ing"):
            phrases.append(None)
        elif said.isascii() and said not in _SMALL and not re.compile(_COLOUR, re.I).match(text, span[0]):
            phrases[-1] = span
    heads = [span for span in phrases if span]
    return list(dict.fromkeys((heads[0], heads[-1]))) if heads else []


def swap(text: str, span: Span, word: str, *, thing: bool = True) -> str:
    """`text` with `word` at a span; "a" and "an" before it are mended, and dropped before a `thing` that takes none."""
    before, after = text[: span[0]], text[span[1] :]
    if thing and with_article(word) == word:
        start = _phrase(text, span[0])
        before = before[:start] + re.sub(r"\ban? ", "", before[start:], count=1, flags=re.IGNORECASE)
    else:
        before = re.sub(r"\b(a)n? $", rf"\1{'n' if _vowel(word) else ''} ", before, flags=re.IGNORECASE)
    return before + word + after


def with_article(words: str) -> str:
    """ "an apple", "a house"; names in the plural and such as "milk" stand alone."""
    last = words.split()[-1]
    if last in _MASS or (last.endswith("s") and not last.endswith(("ss", "us"))):
        return words
    return f"{'an' if _vowel(words) else 'a'} {words}"


@cache
def plural(name: str) -> str:
    """ "apples" for "apple", "churches", "wolves", "snowmen"; what is a plural already stays."""
    head, last = name[: name.rfind(" ") + 1], name[name.rfind(" ") + 1 :]
    if last in _IRREGULAR:
        return head + _IRREGULAR[last]
    if with_article(last) == last and last not in _MASS:
        return name
    for end, many in (("man", "men"), ("leaf", "leaves"), ("lf", "lves")):
        if last.endswith(end):
            return head + last.removesuffix(end) + many
    if last.endswith("y") and last[-2:-1] not in "aeiou":
        return head + last[:-1] + "ies"
    hissing = last.endswith(("s", "x", "z", "ch", "sh", "ato", "cano"))
    return name + ("es" if hissing else "s")


def _thing(text: str, names: Collection[str]) -> Span | None:
    """The first known name, the longest at its place, and the last of names that follow each other."""
    if not names:
        return None
    found: Span | None = None
    for match in _names(tuple(names)).finditer(text):
        if found and text[found[1] : match.start()] != " ":
            break
        found = match.span()
    return found


@cache
def _names(names: tuple[str, ...]) -> re.Pattern[str]:
    forms = sorted({form for name in names for form in (name, plural(name))}, key=lambda form: (-len(form), form))
    listed = "|".join(re.escape(form) for form in forms)
    return re.compile(_WORD.format(f"(?:{listed})") + "(?! shaped)", re.IGNORECASE)


def _phrase(text: str, end: int) -> int:
    """Where the phrase begins whose noun stands at `end`: behind the last sign or small word that is no article."""
    start = end
    for word in reversed(list(re.finditer(r"\S+", text[:end]))):
        said = word[0].lower()
        joined = re.search(rf"{_COLOUR} and $", text[:start], re.IGNORECASE)  # "a red and white cow" is one phrase
        if not joined and (said in ENDS or not said[-1].isalnum()):
            break
        start = word.start()
        if said in ("a", "an", "the"):
            break
    return start


def _is_plural(said: str, names: Collection[str]) -> bool:
    return said.lower() not in names and any(said.lower() == plural(name) for name in names)


def _vowel(word: str) -> bool:
    return re.match(r"[aeio]|um|un(?!i)", word.lower()) is not None


def _touch(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _shift(span: Span, by: int) -> Span:
    return span[0] + by, span[1] + by
