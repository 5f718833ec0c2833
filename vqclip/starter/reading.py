"""Reads a user's text for the starter models: near names for unseen nouns, the captions' grammar for grounds.

What was replaced and what cannot be read is said in notices, one for each text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from vqclip.job import Job, Reading
from vqclip.starter.words import (
    EMPTY,
    GROUNDS,
    LEADING,
    LIGHT,
    MEASURES,
    SHADES,
    UNCOUNTED,
    Item,
    Table,
    singulars,
    split,
    vocabulary,
)

LONGEST = 5  # words of a phrase
_TURNS = 4  # a reading of a reading, and so on
Read = Callable[[str], Reading]


class Reader:
    """Reads texts for a model that knows only some words.

    Args:
        knows: whether the model has learnt a word. table: what other words are read as; what the model does not know
            either is no help.
    """

    def __init__(self, knows: Callable[[str], bool], table: Table) -> None:
        self._knows, self._table = cache(knows), table
        self._names = {name for name in vocabulary()["concepts"] if self._all_known(name)}
        self._colours = {colour for colour in vocabulary()["colours"] if self._all_known(colour)}
        joined = {phrase.replace(" ", ""): name for phrase, name in table.things.items() if " " in phrase}
        joined |= {name.replace(" ", ""): name for name in self._names}
        named = ({name: name for name in self._names}, table.things, joined)
        self._books = ((table.colours, "colour"), (table.words, "word"), *((book, "name") for book in named))

    def __call__(self, text: str) -> Reading:
        """What is read of a text: as the captions would say it, where that is clear, and without punctuation."""
        first = again = self._once(text)
        for _ in range(_TURNS):  # what fell out may bring together what reads in another way
            before, again = again, self._once(again.text)
            if again.text == before.text:
                break
        return replace(first, text=again.text)

    def _once(self, text: str) -> Reading:
        items = list(self._match(self._join(list(split(text, self._table.emoji)))))
        for mend in (_count, _measure, _shade, self._tint):
            items = mend(items)
        replaced = [(item.written, item.read_as) for item in items if item.changed]
        unread = [item.written for item in items if item.kind == "unread"]
        said = " ".join(self._say(_settle(_ground(items))))
        return Reading(said, tuple(dict.fromkeys(replaced)), tuple(dict.fromkeys(unread)))

    def _all_known(self, phrase: str) -> bool:
        return all(self._knows(word) for word in phrase.split())

    def _join(self, words: Sequence[Item]) -> list[Item]:
        """Punctuation cuts nowhere after an article or a preposition, nor between a colour and its background."""
        made: list[Item] = []
        for place, word in enumerate(words):
            before = words[place - 1].plain if place else ""
            open_ended = before in (*LIGHT, *LEADING, "a", "an", "of")
            coloured = word.plain == "background" and before in self._colours
            made.append(replace(word, cut=word.cut and not (open_ended or coloured)))
        return made

    def _match(self, words: Sequence[Item]) -> Iterator[Item]:
        """The longest phrases first, none across punctuation."""
        place = 0
        while place < len(words):
            for length in range(min(LONGEST, len(words) - place), 0, -1):
                window = words[place : place + length]
                if length > 1 and any(word.cut for word in window[1:]):
                    continue
                found = self._phrase(window) if length > 1 else self._word(window[0])
                if found is not None:
                    yield found
                    place += length
                    break

    def _phrase(self, words: Sequence[Item]) -> Item | None:
        """What several words are together; None when nothing is known of them. An article begins no phrase."""
        if words[0].plain in ("a", "an"):
            return None
        plain = " ".join(word.plain for word in words)
        item = replace(words[0], written=" ".join(word.written for word in words), plain=plain)
        if plain in self._names:
            return replace(item, read_as=plain, kind="name")
        for form in (plain, *singulars(plain)):
            if form in self._table.apart:
                return item
            if found := self._look_up(item, form):
                return found
        name = self._one([word.plain for word in words])
        return replace(item, read_as=name, kind="name", changed=True) if name else None

    def _one(self, parts: Sequence[str]) -> str:
        """The name whose parts were written apart ("ice cream" of "icecream"); a black bird is no blackbird."""
        if parts[0] in vocabulary()["colours"] or any(part in EMPTY or len(part) < 2 for part in parts):
            return ""
        joined = "".join(parts)
        name = joined if joined in self._names else self._table.things.get(joined, "")
        return name if name and self._all_known(name) else ""

    def _word(self, item: Item) -> Item:
        if item.plain in self._table.emoji:
            name = self._table.emoji[item.plain]
            return replace(item, read_as=name, kind="name", changed=True) if self._all_known(name) else item
        if self._knows(item.plain):
            kind = "colour" if item.plain in self._colours else "name" if item.plain in self._names else "word"
            return replace(item, read_as=item.plain, kind=kind)
        if item.plain in EMPTY:
            return replace(item, kind="empty")
        found = (self._look_up(item, form) for form in (item.plain, *singulars(item.plain)))
        return next((each for each in found if each), item)

    def _look_up(self, item: Item, form: str) -> Item | None:
        for book, kind in self._books:
            if form in book and self._all_known(book[form]):
                return replace(item, read_as=book[form], kind=kind, changed=True)
        return None

    def _tint(self, items: list[Item]) -> list[Item]:
        """A thing's name before another thing is its colour; a colour with an article and no thing is a fruit."""
        made = list(items)
        for place, item in enumerate(items):
            after = items[place + 1] if place + 1 < len(items) and not items[place + 1].cut else None
            colour = self._table.tints.get(item.plain, "")
            thing = after is not None and (after.kind in ("name", "unread") or after.plain == "background")
            if colour and thing and after is not None and after.kind != "unread" and self._knows(colour):
                made[place] = replace(item, read_as=colour, kind="colour", changed=True)
            fruit = self._table.things.get(item.plain, "") if item.kind == "colour" and not item.changed else ""
            alone = bool(place) and items[place - 1].plain in ("an", "one", "1") and not thing
            if fruit and alone and self._all_known(fruit):
                made[place] = replace(item, read_as=fruit, kind="name", changed=True)
        return made

    def _say(self, items: Sequence[Item]) -> list[str]:
        """The words to encode. What a comma, an unread or another word kept apart stays apart: by an article, where
        the words side by side would be read as one phrase."""
        said: list[str] = []
        changed = False
        for item in items:
            parts = item.read_as.split()
            if item.kind == "name" and said[-len(parts) :] == parts:
                continue  # three apple emoji are an apple
            if said and (item.cut or item.changed or changed) and self._meet(said, parts):
                said.append(_article(parts[0]))
            said, changed = [*said, *parts], item.changed
        return said

    def _meet(self, before: Sequence[str], after: Sequence[str]) -> bool:
        """Whether the last words and the next ones together are a phrase of the table or a name."""
        words = [Item(word, word) for word in (*before[1 - LONGEST :], *after)]
        border = len(words) - len(after)
        return any(
            self._phrase(words[start:end])
            for start in range(border)
            for end in range(border + 1, min(len(words), start + LONGEST) + 1)
        )


def _count(items: list[Item]) -> list[Item]:
    """ "one apple" has an article's one; "1" too. An emoji brings its colour only where the user gave none."""
    made: list[Item] = []
    for place, item in enumerate(items):
        before = made[-1] if made and not item.cut else None
        if item.plain in ("one", "1") and place + 1 < len(items) and items[place + 1].read_as != "colour":
            made.append(replace(item, read_as="a", kind="word"))
        elif item.kind == "name" and before is not None and before.kind == "colour" and " " in item.read_as:
            made.append(replace(item, read_as=_without_colour(item.read_as)))
        else:
            made.append(item)
    return made


def _without_colour(said: str) -> str:
    first, _, rest = said.partition(" ")
    return rest if first in vocabulary()["colours"] else said


def _measure(items: list[Item]) -> list[Item]:
    """ "a cup of tea" is tea: a measure with "of" before a name says nothing."""
    made = list(items)
    for place, item in enumerate(items[:-2]):
        measures = any(form in MEASURES for form in (item.plain, *singulars(item.plain)))
        inner = (each for each in items[place + 2 :] if each.plain not in (*LIGHT, "a", "an") and each.kind != "colour")
        if measures and items[place + 1].plain == "of" and (thing := next(inner, None)) and thing.kind == "name":
            gone = [replace(each, read_as="", kind="empty", changed=False) for each in made[place:][:2]]
            made[place : place + 2] = gone
    return made


def _shade(items: list[Item]) -> list[Item]:
    """ "dark blue" is blue."""
    made: list[Item] = []
    for item in items:
        before = made[-1] if made and not item.cut else None
        if item.kind == "colour" and before is not None and before.plain in SHADES and before.kind == "unread":
            given = f"{before.written} {item.written}"
            made[-1] = replace(item, written=given, plain=f"{before.plain} {item.plain}", cut=before.cut, changed=True)
        else:
            made.append(item)
    return made


def _ground(items: list[Item]) -> list[Item]:
    """ "on white", "with a white background" and ", white background" become a ground, which captions name last."""
    kept, grounds = list[Item](), list[Item]()
    place = 0
    while place < len(items):
        item = items[place]
        end = place + 1
        while end < len(items) and items[end].kind == "unread" and not items[end].cut:
            end += 1
        after = items[end] if end < len(items) and not items[end].cut else None
        start = len(kept)
        while start and not _cuts(kept, start, item) and kept[start - 1].plain in (*LIGHT, "a", "an"):
            start -= 1
        first = start
        while first and not _cuts(kept, first, item) and (
            kept[first - 1].kind == "unread" or kept[first - 1].plain in (*LIGHT, "a", "an")
        ):  # fmt: skip
            first -= 1
        lead = kept[first - 1].plain if first and not _cuts(kept, first, item) else ""
        named = after is not None and after.read_as == "background"
        alone = (after is None or after.kind == "empty") and lead in GROUNDS
        if item.kind == "colour" and (named or alone):
            del kept[first - 1 if lead in LEADING else start :]
            words = f"{_article(item.read_as)} {item.read_as} background"
            grounds.append(replace(item, read_as=words, kind="word", cut=False))
            place = end + named
        else:
            kept.append(item)
            place += 1
    for ground in grounds:
        kept.append(replace(ground, read_as=f"on {ground.read_as}") if any(item.read_as for item in kept) else ground)
    return kept


def _cuts(kept: Sequence[Item], place: int, item: Item) -> bool:
    """Whether punctuation stands before the item at `place`, which is `item` where the list ends."""
    return kept[place].cut if place < len(kept) else item.cut


def _settle(items: Sequence[Item]) -> list[Item]:
    """What is said, without articles and prepositions that have lost their noun; `cut` where something fell out."""
    kept, fell = list[Item](), False
    for place, item in enumerate(items):
        said, noun = item.read_as, _noun(items, place)
        if said in ("a", "an"):
            said = _agree(items, place) if noun else ""
        elif said in ("on", "of"):
            said = said if noun and kept else ""
        if said:
            kept.append(replace(item, read_as=said, cut=item.cut or fell))
        fell = not said or (fell and not said)
    return kept


def _noun(items: Sequence[Item], place: int) -> Item | None:
    """What an article or a preposition at `place` belongs to: the next thing said before punctuation or another one."""
    for item in items[place + 1 :]:
        if item.cut or item.read_as in ("on", "of") or (item.kind == "empty" and item.plain not in LIGHT):
            return None
        if item.read_as and (item.read_as not in ("a", "an") or items[place].read_as in ("a", "an")):
            return None if item.read_as in ("a", "an") else item
    return None


def _agree(items: Sequence[Item], place: int) -> str:
    """The article as it was, or the one that fits what its noun is read as."""
    rest = [item for item in items[place + 1 :] if item.read_as]
    if items[place].plain not in ("a", "an"):
        return _article(rest[0].read_as)
    if items[place + 1] is rest[0] and not rest[0].changed and rest[0].kind != "name":
        thing = next((item for item in rest if item.kind != "colour"), None)
        if thing is None or not thing.changed:
            return items[place].read_as
    thing = next((item for item in rest if item.kind != "colour"), rest[0])
    plural = thing.read_as.endswith("s") and not thing.read_as.endswith(("ss", "us"))
    if thing.kind == "name" and thing.changed and (plural or thing.read_as in UNCOUNTED):
        return ""
    return _article(rest[0].read_as) if rest[0].changed or items[place + 1] is not rest[0] else items[place].read_as


def _article(word: str) -> str:
    return "an" if word[0] in "aeio" or word.startswith("umb") else "a"


def notices(job: Job, readers: Mapping[str, Iterable[Read]]) -> list[str]:
    """What is to be said of how a job's own texts are read: at most one line for each text and role that differs.

    `readers` are those of each role ("guide", "judge").
    """
    lines: list[str] = []
    includes = {prompt.text for prompt in job.include}
    for text in dict.fromkeys(prompt.text for prompt in (*job.include, *job.exclude, *job.extras)):
        read = {(role, read(text)): None for role, all_of_it in readers.items() for read in all_of_it}
        differ = len({reading for _, reading in read}) > 1
        for role, reading in read:
            if said := _remark(reading, drawn=text in includes and (role == "guide" or not differ)):
                whose = f" ({role})" if differ else ""
                judged = text in includes and any(each.unread for by, each in read if by == "judge" and each == reading)
                lines.append(f"prompt {text[:60]!r}{whose}: {said}{'; there is no verdict' if judged else ''}")
    return list(dict.fromkeys(lines))


def _remark(reading: Reading, *, drawn: bool) -> str:
    said = [f"{given} is read as {name}" for given, name in reading.replaced]
    if reading.unread:
        said.append(f"{', '.join(reading.unread)} {'is' if len(reading.unread) == 1 else 'are'} not read")
    if not reading.text:
        said.append("nothing of it is left" + (" and the picture is arbitrary" if drawn else ""))
    return "; ".join(said)
