"""What can be said about a training picture: true captions, near misses, and which caption fits what.

Knows words and meanings only; never looks at pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from training.concepts import COLOURS
from vqclip.perceptors.openai_clip import SimpleTokenizer

BACKGROUNDS = COLOURS
STYLE_WORDS = ("shaded", "flat", "glossy", "one colour", "outlined")
# (words before the thing, whether the style word goes into them)
FRAMES = (
    "", "", "", "",
    "a drawing of", "a picture of", "an icon of", "an image of", "a photo of", "a painting of",
)  # fmt: skip
STYLE_FRAMES = ("a {} drawing of", "a {} picture of", "a {} icon of")
MASS_NOUNS = ("bread", "fire", "corn", "milk", "tea", "beer", "coffee", "sushi", "bacon", "golf")
UNSAID, UNKNOWN = -1, -2
_EXCHANGE = 0.8  # share of near misses that let thing and ground change colours
FIELDS = ("name", "colour", "background", "style")


@dataclass(frozen=True)
class Meaning:
    """What a caption says, or what is true of a picture; an empty field is unsaid, or not known."""

    name: str = ""
    colour: str = ""
    background: str = ""
    style: str = ""


def with_article(words: str, noun: str) -> str:
    """ "an apple", "a red apple", but "red grapes" and "milk" without an article."""
    plural = noun.endswith("s") and not noun.endswith(("ss", "us"))
    if plural or noun.split()[-1] in MASS_NOUNS:
        return words
    return f"{'an' if words[0] in 'aeio' or words.startswith('umb') else 'a'} {words}"


def say(meaning: Meaning, rng: np.random.Generator) -> str:
    """One English caption for a meaning; the wording varies with `rng`, the meaning does not."""
    thing = " ".join(word for word in (meaning.colour, meaning.name) if word)
    if not meaning.name:
        thing = f"something {meaning.colour}" if meaning.colour else ""
    elif rng.random() < 0.55 or meaning.style:
        thing = with_article(thing, meaning.name)
    if meaning.style:
        frame = STYLE_FRAMES[rng.integers(len(STYLE_FRAMES))].format(meaning.style)
        thing = f"{frame} {thing or 'something'}".replace("a outlined", "an outlined")
    elif meaning.name:
        frame = FRAMES[rng.integers(len(FRAMES))]
        thing = f"{frame} {thing}" if frame else thing
    if not meaning.background:
        return thing or "something"
    place = with_article(f"{meaning.background} background", "background")
    return f"{thing} on {place}" if thing else place


def leave_out(truth: Meaning, rng: np.random.Generator) -> Meaning:
    """A random part of what is true: nearly always the name, often the colours, seldom the style."""
    draws = rng.random(4)
    keep = {"name": 0.96, "colour": 0.55, "background": 0.55, "style": 0.12}
    said = Meaning(*(
        getattr(truth, field) if draw < keep[field] else "" for field, draw in zip(FIELDS, draws, strict=True)
    ))  # fmt: skip
    return said if said != Meaning() else Meaning(name=truth.name)


def near_miss(said: Meaning, truth: Meaning, names: list[str], rng: np.random.Generator) -> Meaning:
    """The same sentence with one fact changed: another colour, another background or another thing.

    Whose colour it is has to be learnt too: where two colours are true, most sentences give the thing the
    ground's colour or the ground the thing's, and both where it says both.
    """
    two = bool(truth.colour and truth.background and truth.colour != truth.background)
    if two and (said.colour or said.background) and rng.random() < _EXCHANGE:
        colour = truth.background if said.colour else ""
        return replace(said, colour=colour, background=truth.colour if said.background else "")
    fields = [field for field in ("colour", "background") if getattr(said, field)] or ["name"]
    field = "name" if rng.random() < 0.25 else fields[rng.integers(len(fields))]
    pool = names if field == "name" else list(COLOURS)
    others = [word for word in pool if word != getattr(truth, field)]
    return replace(said, **{field: others[rng.integers(len(others))]})


class Codes:
    """Meanings as (N, 4) integers, so that "does this caption fit this picture" is one tensor comparison."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        words = (names, COLOURS, BACKGROUNDS, STYLE_WORDS)
        self._places = [{word: place for place, word in enumerate(book)} for book in words]

    def encode(self, meanings: list[Meaning], empty: int) -> torch.Tensor:
        """(N, 4) int64; `empty` is UNSAID for captions and UNKNOWN for pictures."""
        places = [{"": empty} | book for book in self._places]
        rows = [
            [book[getattr(meaning, field)] for field, book in zip(FIELDS, places, strict=True)] for meaning in meanings
        ]
        return torch.tensor(rows)


def fits(pictures: torch.Tensor, captions: torch.Tensor) -> torch.Tensor:
    """(B, T) bool: whether nothing that the caption says is known to be false of the picture.

    Where the picture's own field is unknown the caption counts as fitting: it is then no fair negative.
    """
    said, true = captions[None], pictures[:, None]
    return ((said == UNSAID) | (true == UNKNOWN) | (said == true)).all(-1)


def list_words(names: list[str]) -> list[str]:
    """Every word that a caption can contain, sorted."""
    text = " ".join([*names, *COLOURS, *STYLE_WORDS, *FRAMES, *STYLE_FRAMES, "something a an on background"])
    return sorted(set(text.replace("{}", "").split()))


class Tokens:
    """openai-clip's byte-pair tokens, renumbered to the few that captions can contain.

    The order of the ids is kept: the end token stays the largest, which is how clip.model.CLIP finds it.
    """

    def __init__(self, words: list[str]) -> None:
        self._bpe = SimpleTokenizer()
        known = {token for word in words for token in self._bpe.encode(word)}
        ends = {self._bpe.encoder["<|startoftext|>"], self._bpe.encoder["<|endoftext|>"]}
        self.ids = torch.tensor(sorted(known | ends), dtype=torch.int32)
        self._row = {int(token): row for row, token in enumerate(self.ids)}
        self._encode = lru_cache(100_000)(self._encode_one)

    def _encode_one(self, caption: str) -> tuple[int, ...]:
        return (len(self._row) - 2, *(self._row[t] for t in self._bpe.encode(caption)), len(self._row) - 1)

    def __call__(self, captions: list[str]) -> torch.Tensor:
        """(N, L) int64 rows of the token table, padded with 0 to the longest caption; KeyError if unseen."""
        rows = [self._encode(caption) for caption in captions]
        table = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for place, row in enumerate(rows):
            table[place, : len(row)] = torch.tensor(row)
        return table
