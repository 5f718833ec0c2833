"""The words of the starter models and what other words are read as; takes a text apart. Reads two small files."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that say nothing about a picture by themselves. Over a LIGHT one an article still reaches its noun.
LIGHT = _set(
    "the this that these those some any each every such own same my your his her its our their very really quite just "
    "so too rather"
)
EMPTY = LIGHT | _set(
    "all both other another i you he she it we they me him us them who whom whose which what there here and or nor "
    "but yet as if than then though because while when where how at by for from in inside into like near next off onto "
    "out outside over past per through to toward towards under up upon with within against along among around "
    "before behind below beneath beside besides between beyond during above across after about down via versus is are "
    "was were be been being am do does did done has have had having will would shall should can could may might must "
    "yes please also only even much more most less least let draw drawn draws paint painted show shows showing "
    "shown make makes made making create created generate generated give want wants need depicting depicts coloured "
    "colored"
)
GROUNDS = ("on", "against", "upon", "over", "onto")  # "on white", "against a white background"
LEADING = (*GROUNDS, "in", "with", "at", "before", "and", "having", "has")  # "with a white background"
SHADES = _set("dark light bright pale deep vivid pastel neon soft rich")
# What a thing comes in or by: "a cup of tea", "a slice of pizza", "a bunch of grapes".
MEASURES = _set(
    "cup mug glass bottle bowl plate pint pot jar slice piece bit bunch loaf scoop ear head pair pack box bar bag"
)
ODD_PLURALS = {
    "mice": "mouse", "geese": "goose", "oxen": "ox", "cacti": "cactus", "octopi": "octopus", "children": "child",
    "feet": "foot", "teeth": "tooth", "fungi": "fungus",
}  # fmt: skip
UNCOUNTED = ("bread", "fire", "corn", "milk", "tea", "beer", "coffee", "sushi")
_SILENT = dict.fromkeys([0xFE0E, 0xFE0F, *range(0x1F3FB, 0x1F400)])  # how an emoji is to be shown; skin tones
_JOINER = "\u200d"
_JOINING = "-_'\"*`~"  # and dashes, quotes, invisible marks: they stand in a phrase and cut nothing
_QUOTES = ("Pd", "Cf", "Pi", "Pf")


@dataclass(frozen=True)
class Table:
    """What unseen words are read as; made by training/readings.py.

    things, colours, words: a phrase in lower case -> a name, a colour, or a word of the captions ("photo").
    tints: things that are colours before another thing ("a cherry heart"). emoji: an emoji -> a name, maybe with a
    colour. apart: phrases that are nothing known although one of their words is ("guinea pig").
    """

    things: Mapping[str, str]
    colours: Mapping[str, str]
    tints: Mapping[str, str]
    words: Mapping[str, str]
    emoji: Mapping[str, str]
    apart: frozenset[str]

    @classmethod
    def of(cls, listed: Mapping[str, Any]) -> Table:
        """The table from its file, where every name lists the phrases that are read as it."""
        flat = {
            part: {phrase: name for name, phrases in listed[part].items() for phrase in phrases}
            for part in ("things", "colours", "tints", "words", "emoji")
        }
        return cls(**flat, apart=frozenset(listed["apart"]))


@cache
def table() -> Table:
    """The table that ships with the models."""
    return Table.of(_json("readings.json"))


@cache
def vocabulary() -> Mapping[str, frozenset[str]]:
    """The words of the captions that the starter models learnt from, by kind."""
    return {kind: frozenset(words) for kind, words in _json("vocabulary.json").items()}


def _json(name: str) -> Any:
    return json.loads((Path(__file__).parent / name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Item:
    """A word or phrase: as the user wrote it, in plain letters, and what it is read as ("" for nothing).

    kind: "colour", "name", "word" (another word of the captions), "empty" or "unread". cut: punctuation stands
    before it. changed: it is read as something else than it says.
    """

    written: str
    plain: str
    read_as: str = ""
    kind: str = "unread"
    cut: bool = False
    changed: bool = False


def split(text: str, emoji: Mapping[str, str]) -> Iterator[Item]:
    """The words, numbers and emoji of a text; hyphens and quotes join as spaces do, other punctuation cuts."""
    text = unicodedata.normalize("NFKC", text).translate(_SILENT)
    place, cut = 0, False
    while place < len(text):
        end = _end(text, place, emoji)
        if end > place:
            given = text[place:end]
            yield Item(given, _plain(given), cut=cut)
            place, cut = end, False
            continue
        cut = cut or not (text[place].isspace() or text[place] in _JOINING or _category(text[place]) in _QUOTES)
        place += 1


def _end(text: str, place: int, emoji: Mapping[str, str]) -> int:
    """Where the word or the emoji ends that begins at `place`, `place` itself where none does."""
    longest = max((n for n in range(1, 9) if text[place : place + n] in emoji), default=0)
    if longest and not text[place : place + 1].isalnum():
        return place + longest
    end = place
    if _category(text[place]) == "So":
        while end < len(text) and (_category(text[end]) == "So" or text[end] == _JOINER) and (
            end == place or text[end] not in emoji
        ):  # fmt: skip
            end += 1
        return end
    while end < len(text) and (_in_word(text[end]) or (end > place and _is_apostrophe(text, end))):
        end += 1
    return end


def _in_word(letter: str) -> bool:
    return letter.isalnum() or unicodedata.category(letter).startswith("M")


def _is_apostrophe(text: str, place: int) -> bool:
    return text[place] in "'\u2019" and place + 1 < len(text) and _in_word(text[place + 1])


def _category(letter: str) -> str:
    return unicodedata.category(letter)


def _plain(word: str) -> str:
    """Lower case, without accents and without the genitive's s."""
    bare = "".join(each for each in unicodedata.normalize("NFKD", word.casefold()) if _category(each) != "Mn")
    return (bare if bare.isascii() else word.casefold()).replace("\u2019", "'").removesuffix("'s")


def singulars(phrase: str) -> list[str]:
    """What a phrase may be the plural of, by the endings of its last word."""
    start, gap, word = phrase.rpartition(" ")
    found = [ODD_PLURALS[word]] if word in ODD_PLURALS else []
    if word.endswith("men"):
        found.append(f"{word[:-3]}man")
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        found.append(word[:-1])
        found += [word[:-3] + last for end, *lasts in _ENDINGS if word.endswith(end) for last in lasts]
    return [f"{start}{gap}{each}" for each in found]


_ENDINGS = (("ies", "y"), ("ves", "f", "fe"), ("ses", "s"), ("xes", "x"), ("hes", "h"), ("oes", "o"), ("zes", "z"))
